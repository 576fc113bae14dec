// The worker: reads the prompt, writes on, and reports. It takes messages of a type load, reset,
// set, run, pause, step or rank, and sends ready, state, ranking and error.
function hlstmWorker(scope, library) {
  "use strict";
  const { Network, nextCharacter, entropy, randomNumbers, draw } = library;
  const SLICE = 25; // ms of work between two looks at the messages
  const KEPT = 128; // characters whose gates are remembered
  const LIMIT = 20000; // characters that one run writes

  let net, logits, random, settings;
  let ids, read; // the whole text, and how much of it the network has read
  let promptLength, reported; // in characters
  let goal = 0; // characters still to write
  let due = 0; // when the next character may be written
  let lastReport = 0;
  let timer, turn = 0; // what wakes the worker next
  let clock = { start: 0, length: 0, rate: 0 };
  let memory; // by layer and gate, KEPT rows of H numbers, used in turn

  const writing = () => goal > 0;
  const reading = () => read < ids.length;

  function remember(row) {
    net.layers.forEach((layer, k) => {
      for (const name of "ifgoc")
        memory[k][name].set(layer.gates[name], (row % KEPT) * layer.H);
    });
  }

  function readOne() {
    logits = net.read(ids[read]);
    remember(read);
    read += 1;
  }

  function work() {
    const begin = performance.now();
    let now = begin;
    while (now < begin + SLICE && (reading() || (writing() && now >= due))) {
      if (!reading()) {
        ids.push(draw(nextCharacter(logits, settings), random()));
        goal -= 1;
        if (settings.pace) due = Math.max(due, now - 1000) + 1000 / settings.pace;
      }
      readOne();
      now = performance.now();
    }
    const done = !reading() && !writing();
    if (done || now - lastReport >= settings.interval) report(now);
    if (!done) wake(reading() ? 0 : due - now);
  }

  // A timer that follows a timer waits 4 ms at least; a message to oneself does not wait, and
  // lets in those of the page.
  const bell = new MessageChannel();
  bell.port1.onmessage = ({ data }) => data === turn && work();

  function wake(delay = 0) {
    sleep();
    if (!ids) return;
    if (delay > 0) timer = setTimeout(work, delay);
    else bell.port2.postMessage(turn);
  }

  function sleep() {
    clearTimeout(timer);
    turn += 1;
  }

  // Characters a second, over the last half second or more.
  function measure(now) {
    const passed = now - clock.start;
    if (passed < 500) return;
    clock = { start: now, length: ids.length, rate: ((ids.length - clock.length) * 1000) / passed };
  }

  function heat() {
    const { layer, gate, units, columns } = settings;
    const { H } = net.layers[layer];
    const first = Math.max(0, read - Math.min(columns, KEPT));
    const rows = units.map((u) =>
      Float32Array.from({ length: read - first }, (_, t) =>
        memory[layer][gate][((first + t) % KEPT) * H + u],
      ),
    );
    return { rows, first, text: decode(ids.slice(first, read)), layer, gate, units };
  }

  const decode = (numbers) => numbers.map((id) => net.symbols[id]).join("");

  function report(now = performance.now()) {
    if (!read || read < promptLength) return;
    lastReport = now;
    if (writing()) measure(now);
    const p = nextCharacter(logits, settings);
    scope.postMessage({
      type: "state",
      text: decode(ids.slice(Math.max(reported, promptLength), read)),
      fresh: reported === 0,
      written: read - promptLength,
      running: writing(),
      rate: clock.rate,
      p,
      nats: entropy(p),
      heat: settings.units && heat(),
    });
    reported = read;
  }

  const messages = {
    load({ buffer }) {
      net = new Network(buffer);
      memory = net.layers.map(({ H }) =>
        Object.fromEntries([..."ifgoc"].map((name) => [name, new Float32Array(KEPT * H)])),
      );
      const { symbols, layers } = net;
      scope.postMessage({ type: "ready", symbols, layers: layers.length, units: layers[0].H });
    },
    reset({ prompt, seed }) {
      sleep();
      goal = 0;
      ids = undefined; // where the prompt is refused
      ids = net.encode(prompt);
      promptLength = ids.length;
      read = reported = 0;
      random = randomNumbers(seed);
      clock.rate = 0;
      net.reset();
      wake();
    },
    set(message) {
      settings = message.settings;
      if (ids) report();
    },
    run() {
      goal = LIMIT;
      due = performance.now();
      clock = { start: due, length: ids.length, rate: 0 };
      wake();
    },
    pause() {
      goal = 0;
      wake();
    },
    step() {
      goal = 1;
      due = 0;
      wake();
    },
    // The units whose gate varies most over the remembered text.
    rank({ count }) {
      const { layer, gate } = settings;
      const { H } = net.layers[layer];
      const rows = Math.min(read, KEPT);
      const variance = Array.from({ length: H }, (_, u) => {
        let sum = 0, squares = 0;
        for (let t = 0; t < rows; t++) {
          const value = memory[layer][gate][t * H + u];
          sum += value;
          squares += value * value;
        }
        return squares / rows - (sum / rows) ** 2;
      });
      const order = [...variance.keys()].sort((a, b) => variance[b] - variance[a]);
      scope.postMessage({ type: "ranking", units: order.slice(0, count) });
    },
  };

  scope.onmessage = ({ data }) => {
    try {
      messages[data.type](data);
    } catch (error) {
      scope.postMessage({ type: "error", message: error.message });
    }
  };
}
