// The page's side of the playground: it reads the controls, asks the worker, shows the answers.
(() => {
  "use strict";
  const root = document.getElementById("playground");
  if (!root) return;
  const folder = new URL(".", document.currentScript.src);
  const find = (selector) => root.querySelector(selector);
  const [form, gates] = root.querySelectorAll("form");
  const field = { ...named(form), ...(gates ? named(gates) : {}) };
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const load = find("button.load"); // in a chapter's panel
  const SHOWN = 12; // symbols with a bar of their own
  const MOST = 24; // units in the heat map

  let worker, state; // the worker, and its last report
  let size = {}; // of the network: symbols, layers, units
  let waiting = false; // for the next frame
  let arrived = ""; // text that is not on the page yet
  let asked = ""; // what the reader did last: run, pause, step, reset
  const errors = {};

  function named(element) {
    return Object.fromEntries([...element.elements].filter((e) => e.name).map((e) => [e.name, e]));
  }

  // Loading

  // A page opened from a disk may fetch nothing, but it may run a script.
  async function weights() {
    if (location.protocol !== "file:") {
      const answer = await fetch(new URL("weights.safetensors", folder));
      if (!answer.ok) throw Error(`the server answered ${answer.status}`);
      return answer.arrayBuffer();
    }
    const script = document.createElement("script");
    script.src = new URL("weights.js", folder);
    document.head.append(script);
    await new Promise((resolve, reject) => {
      script.onload = resolve;
      script.onerror = () => reject(Error("the file weights.js is missing"));
    });
    return Uint8Array.from(atob(globalThis.hlstmWeights), (c) => c.charCodeAt(0)).buffer;
  }

  async function start() {
    say("Loading the network …");
    try {
      const buffer = await weights();
      const program = `(${hlstmWorker})(self, (${hlstmNetwork})())`;
      const source = URL.createObjectURL(new Blob([program], { type: "text/javascript" }));
      worker = new Worker(source);
      worker.onmessage = ({ data }) => answers[data.type](data);
      worker.onerror = (event) => say(`The network stopped: ${event.message}. Reload the page.`);
      worker.postMessage({ type: "load", buffer }, [buffer]);
    } catch (error) {
      say(`The network could not be loaded: ${error.message}. Reload the page to try again.`);
    }
  }

  // Asking

  function optional(input) {
    return input?.value ? Number(input.value) : null;
  }

  function settings() {
    const pace = Number(field.pace?.value ?? 30); // 0 is as fast as it can
    return {
      temperature: Number(field.temperature.value),
      topK: optional(field.topK),
      topP: optional(field.topP),
      pace,
      interval: calm.matches ? 500 : pace ? 33 : 100, // ms between two reports
      ...(gates && {
        layer: Number(field.layer.value),
        gate: field.gate.value,
        units: parseUnits(field.units.value),
        columns: columns(),
      }),
    };
  }

  // "0-3, 8" is 0, 1, 2, 3 and 8.
  function parseUnits(text) {
    const units = text.split(",").flatMap((part) => {
      const range = part.match(/^\s*(\d+)(?:\s*[-–]\s*(\d+))?\s*$/);
      if (!range) throw Error(`units are numbers and ranges, such as 0-7, 12, and got "${text}"`);
      const [first, last] = [Number(range[1]), Number(range[2] ?? range[1])];
      if (first > last || last >= size.units)
        throw Error(`units run from 0 to ${size.units - 1}, and got "${part.trim()}"`);
      return Array.from({ length: Math.min(last - first, MOST) + 1 }, (_, k) => first + k);
    });
    if (units.length > MOST) throw Error(`at most ${MOST} units fit, and got more: "${text}"`);
    return units;
  }

  function check(input, name) {
    const { min, max, validity, value, required } = input;
    if (validity.valid) return;
    const kind = input.step === "1" ? "a whole number" : "a number";
    const got = validity.badInput ? "something else" : value || "nothing";
    throw Error(`${name} is ${kind} from ${min} to ${max}${required ? "" : ", or empty"}, and got ${got}`);
  }

  // Run `task`; what goes wrong belongs to the input.
  function guarded(input, task) {
    delete errors[input.name];
    try {
      task();
    } catch (error) {
      errors[input.name] = error.message;
    }
    mark();
  }

  function mark() {
    for (const [name, input] of Object.entries(field))
      if (name in errors) input.setAttribute("aria-invalid", "true");
      else input.removeAttribute("aria-invalid");
    const [wrong] = Object.values(errors);
    field.run.disabled = field.step.disabled = Boolean(wrong);
    if (wrong) say(`Not accepted: ${wrong}`);
    else if (find(".status").textContent.startsWith("Not accepted")) say("Accepted.");
  }

  // What the worker would not notice: all errors but that of the prompt, which it finds itself.
  const refused = () => Object.keys(errors).some((name) => name !== "prompt");

  function set() {
    if (!refused()) worker.postMessage({ type: "set", settings: settings() });
  }

  function ask(type) {
    asked = type;
    worker.postMessage({ type });
  }

  function reset() {
    if (refused()) return;
    asked = "reset";
    const seed = Number(field.seed?.value ?? 0);
    worker.postMessage({ type: "reset", prompt: field.prompt.value, seed });
  }

  // Answers

  const answers = {
    ready({ symbols, layers, units }) {
      size = { symbols, layers, units };
      if (field.topK) field.topK.max = symbols.length;
      for (let k = 1; gates && k <= layers; k++)
        field.layer.add(new Option(k, k - 1, false, k === layers));
      for (const set of root.querySelectorAll("fieldset")) set.disabled = false;
      set();
      reset();
      if (load) {
        load.parentElement.remove();
        field.prompt.focus();
      }
    },
    state(report) {
      if (report.fresh) {
        arrived = "";
        find(".text b").textContent = field.prompt.value;
        find(".text span").textContent = "";
        delete errors.prompt;
        mark();
      }
      arrived += report.text;
      const before = state;
      state = report;
      field.run.textContent = report.running ? "Pause" : "Run";
      tell(before);
      later();
    },
    ranking({ units }) {
      field.units.value = units.sort((a, b) => a - b).join(", ");
      guarded(field.units, set);
    },
    error({ message }) {
      state = undefined;
      errors.prompt = message;
      field.run.textContent = "Run";
      mark();
    },
  };

  function say(text, unseen = "") {
    const line = find(".status");
    if (line.textContent === text + unseen) return;
    const whisper = document.createElement("span");
    whisper.className = "unseen";
    whisper.textContent = unseen;
    line.replaceChildren(text, whisper);
  }

  const spell = (symbol) => ({ "\n": "line end", " ": "space" })[symbol] ?? symbol;
  const count = (n) => n.toLocaleString("en");

  // Told in words, and only where something begins or ends.
  function tell(before) {
    if (Object.keys(errors).length) return;
    const { running, written, fresh } = state;
    if (running) return say("Running.");
    if (fresh && !written) return say("Ready: the prompt is read.");
    if (asked === "step") return say(`${count(written)} written; the last is ${spell(arrived.at(-1) ?? last())}.`);
    if (!before?.running) return;
    const words = asked === "pause" ? "Paused after" : "Stopped after";
    say(`${words} ${count(written)} characters.`, ` The text ends: ${(text() + arrived).slice(-200)}`);
  }

  const text = () => find(".text span").textContent;
  const last = () => text().at(-1);

  // Showing

  function later() {
    if (!waiting) requestAnimationFrame(show);
    waiting = true;
  }

  function show() {
    waiting = false;
    if (!state) return;
    const box = find(".text");
    const below = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    find(".text span").append(arrived);
    arrived = "";
    if (below) box.scrollTop = box.scrollHeight;
    find(".rate").textContent =
      state.running && state.rate ? `${count(Math.round(state.rate))} characters a second` : "";
    showNext();
    if (state.heat) showHeat(state.heat);
  }

  function showNext() {
    const { p, nats } = state;
    const order = [...p.keys()].sort((a, b) => p[b] - p[a]);
    const rows = order.slice(0, SHOWN).map((j) => [spell(size.symbols[j]), p[j]]);
    const rest = order.slice(SHOWN);
    rows.push([`the other ${rest.length}`, rest.reduce((sum, j) => sum + p[j], 0)]);
    const body = find(".next tbody");
    rows.forEach(([name, share], k) => {
      const row = body.rows[k] ?? newRow(body);
      row.cells[0].textContent = name;
      const [bar, number] = row.cells[1].firstChild.children;
      bar.style.setProperty("--share", share);
      number.textContent = share.toFixed(3);
    });
    const bits = nats / Math.LN2;
    find(".entropy b").textContent = `${nats.toFixed(3)} nats = ${bits.toFixed(3)} bits`;
  }

  function newRow(body) {
    const row = body.insertRow();
    row.innerHTML = '<th scope="row"></th><td><div><span class="bar"></span><span></span></div></td>';
    return row;
  }

  // The heat map

  // Colours of the book's figures: viridis from 0 to 1; blue, grey, orange from −1 to 1.
  const RAMPS = {
    share: [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]],
    sign: [[0, 114, 178], [240, 240, 240], [213, 94, 0]],
  };
  const CELL = 14; // px

  function rgb(ramp, share) {
    const place = Math.min(Math.max(share, 0), 1) * (ramp.length - 1);
    const k = Math.min(Math.floor(place), ramp.length - 2);
    return `rgb(${ramp[k].map((low, j) => Math.round(low + (place - k) * (ramp[k + 1][j] - low)))})`;
  }

  const left = 34; // room for the units' numbers
  const columns = () => Math.max(8, Math.floor((find("canvas").clientWidth - left) / CELL));

  // A place on the ramp: c is squashed as the cell does it.
  const shares = {
    i: (v) => v,
    f: (v) => v,
    o: (v) => v,
    g: (v) => (v + 1) / 2,
    c: (v) => (Math.tanh(v) + 1) / 2,
  };

  function showHeat({ rows, text, gate, units }) {
    const canvas = find("canvas");
    const scale = window.devicePixelRatio;
    const width = canvas.clientWidth;
    const height = (rows.length + 1.3) * CELL;
    canvas.style.height = `${height}px`;
    canvas.width = width * scale;
    canvas.height = height * scale;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.fillStyle = getComputedStyle(canvas).color;
    pen.font = `${CELL - 3}px monospace`;
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    units.forEach((u, r) => pen.fillText(u, left - 5, (r + 0.5) * CELL));
    pen.textAlign = "center";
    [...text].forEach((symbol, t) => {
      pen.fillText({ "\n": "⏎", " ": "·" }[symbol] ?? symbol, left + (t + 0.5) * CELL, (rows.length + 0.7) * CELL);
    });
    const ramp = RAMPS["gc".includes(gate) ? "sign" : "share"];
    rows.forEach((row, r) =>
      row.forEach((value, t) => {
        pen.fillStyle = rgb(ramp, shares[gate](value));
        pen.fillRect(left + t * CELL, r * CELL, CELL - 1, CELL - 1);
      }),
    );
    describe(state.heat);
  }

  function describe({ rows, text, gate, units, layer }) {
    const name = field.gate.selectedOptions[0].text;
    const means = rows.map((row) => row.reduce((a, b) => a + b, 0) / row.length);
    const [low, high] = [Math.min(...means), Math.max(...means)];
    const unit = (mean) => `unit ${units[means.indexOf(mean)]} has the mean ${mean.toFixed(2)}`;
    find("canvas").setAttribute(
      "aria-label",
      `Heat map: ${name} of ${units.length} units of layer ${layer + 1} over the last ${text.length} ` +
        `characters. Lowest, ${unit(low)}; highest, ${unit(high)}.`,
    );
    find(".low").textContent = { g: "−1", c: "tanh c = −1" }[gate] ?? "0, shut";
    find(".high").textContent = { g: "1", c: "1" }[gate] ?? "1, open";
    const ramp = RAMPS["gc".includes(gate) ? "sign" : "share"];
    find(".ramp").style.background = `linear-gradient(90deg, ${ramp.map((c) => `rgb(${c})`)})`;
    if (find("details").open && !state.running) tabulate(state.heat);
  }

  function tabulate({ rows, text, units }) {
    const from = Math.max(0, text.length - 12);
    const cells = (tag, values) => values.map((value) => `<${tag}>${value}</${tag}>`).join("");
    const safe = (symbol) => spell(symbol).replace("&", "&amp;");
    const head = cells('th scope="col"', ["unit", ...[...text].slice(from).map(safe)]);
    const body = rows.map(
      (row, r) =>
        `<tr><th scope="row">${units[r]}</th>${cells("td", [...row.slice(from)].map((v) => v.toFixed(2)))}</tr>`,
    );
    find("details table").innerHTML = `<thead><tr>${head}</tr></thead><tbody>${body.join("")}</tbody>`;
  }

  function readCell({ offsetX, offsetY }) {
    const { rows, units, text, gate } = state?.heat ?? { rows: [] };
    const [r, t] = [Math.floor(offsetY / CELL), Math.floor((offsetX - left) / CELL)];
    const value = rows[r]?.[t];
    find(".reading").textContent =
      value === undefined ? "" : `unit ${units[r]} at ${spell(text[t])}: ${gate} = ${value.toFixed(3)}`;
  }

  // The controls

  form.addEventListener("submit", (event) => event.preventDefault());
  field.prompt.addEventListener("input", reset);
  field.temperature.addEventListener("input", () => {
    find(".value").textContent = Number(field.temperature.value).toFixed(2);
    set();
  });
  const names = { topK: "top-k", topP: "top-p", seed: "the seed" };
  for (const [name, spoken] of Object.entries(names))
    field[name]?.addEventListener("input", () => {
      guarded(field[name], () => check(field[name], spoken));
      if (name === "seed") reset();
      else set();
    });
  field.pace?.addEventListener("change", set);
  field.run.addEventListener("click", () => ask(state?.running ? "pause" : "run"));
  field.step.addEventListener("click", () => ask("step"));
  field.reset.addEventListener("click", reset);
  if (gates) {
    gates.addEventListener("submit", (event) => event.preventDefault());
    field.layer.addEventListener("change", set);
    field.gate.addEventListener("change", set);
    field.units.addEventListener("input", () => guarded(field.units, () => parseUnits(field.units.value)));
    field.units.addEventListener("input", set);
    field.rank.addEventListener("click", () => worker.postMessage({ type: "rank", count: 12 }));
    find("canvas").addEventListener("pointermove", readCell);
    find("details").addEventListener("toggle", later);
    new MutationObserver(later).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    new ResizeObserver(() => worker && set()).observe(find("canvas"));
  }
  calm.addEventListener("change", () => worker && set());

  if (load) load.addEventListener("click", start);
  else start();
})();
