// The book's network and its sampling in plain JavaScript; numbers in brackets are those of the
// book's equations. The text of this function is also the program of a Web Worker, so it uses
// no name from outside.
function hlstmNetwork() {
  "use strict";

  // The safetensors file that hlstm.save_int8 writes: the length of the header, the header,
  // the numbers.
  function readTensors(buffer) {
    const length = Number(new DataView(buffer).getBigUint64(0, true));
    const text = new TextDecoder().decode(new Uint8Array(buffer, 8, length));
    const { __metadata__: metadata, ...header } = JSON.parse(text);
    const tensors = {};
    for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
      const bytes = buffer.slice(...data_offsets.map((offset) => 8 + length + offset));
      tensors[name] = { shape, values: new { F32: Float32Array, I8: Int8Array }[dtype](bytes) };
    }
    return { tensors, symbols: JSON.parse(metadata.hlstm).vocabulary };
  }

  // Scale times whole number, (19.1), once for all. Eight rows lie interleaved, so that
  // addProduct reads the weights in the order in which they lie; rows are filled up with zeros.
  function dequantise(tensors, name) {
    const { shape: [rows, columns], values } = tensors[name];
    const scale = tensors[`${name}.scale`].values;
    const padded = Math.ceil(rows / 8) * 8;
    const weights = new Float32Array(padded * columns);
    for (let r = 0, k = 0; r < rows; r++)
      for (let j = 0; j < columns; j++, k++)
        weights[place(columns, r, j)] = scale[r] * values[k];
    return { padded, columns, weights };
  }

  const place = (columns, r, j) => ((r >> 3) * columns + j) * 8 + (r & 7);

  // sum += W x. Eight rows at a time: x[j] is fetched once, and no sum waits for another.
  function addProduct({ padded, columns, weights: W }, x, sum) {
    for (let r = 0, k = 0; r < padded; r += 8) {
      let s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
      for (let j = 0; j < columns; j++, k += 8) {
        const xj = x[j];
        s0 += W[k] * xj;
        s1 += W[k + 1] * xj;
        s2 += W[k + 2] * xj;
        s3 += W[k + 3] * xj;
        s4 += W[k + 4] * xj;
        s5 += W[k + 5] * xj;
        s6 += W[k + 6] * xj;
        s7 += W[k + 7] * xj;
      }
      sum[r] += s0;
      sum[r + 1] += s1;
      sum[r + 2] += s2;
      sum[r + 3] += s3;
      sum[r + 4] += s4;
      sum[r + 5] += s5;
      sum[r + 6] += s6;
      sum[r + 7] += s7;
    }
  }

  const sigmoid = (a) => 1 / (1 + Math.exp(-a));

  class Layer {
    constructor(tensors, k) {
      const ih = tensors[`lstm.bias_ih_l${k}`].values;
      const hh = tensors[`lstm.bias_hh_l${k}`].values;
      this.bias = Float64Array.from(ih, (b, r) => b + hh[r]);
      this.weight_ih = dequantise(tensors, `lstm.weight_ih_l${k}`);
      this.weight_hh = dequantise(tensors, `lstm.weight_hh_l${k}`);
      this.H = this.weight_hh.columns;
      this.a = new Float64Array(4 * this.H);
      this.h = new Float64Array(this.H);
      this.gates = {}; // the last step's i, f, g, o, and the memory c
      for (const name of "ifgoc") this.gates[name] = new Float64Array(this.H);
    }

    // What the input adds, W x + b: for a one-hot x a column of W, (8.4).
    readCharacter(id) {
      const { columns, weights } = this.weight_ih;
      for (let r = 0; r < this.a.length; r++)
        this.a[r] = this.bias[r] + weights[place(columns, r, id)];
    }

    readLayer(x) {
      this.a.set(this.bias);
      addProduct(this.weight_ih, x, this.a);
    }

    step() {
      const { a, h, H } = this;
      const { i, f, g, o, c } = this.gates;
      addProduct(this.weight_hh, h, a); // (4.12)
      for (let u = 0; u < H; u++) {
        i[u] = sigmoid(a[u]); // (4.6)
        f[u] = sigmoid(a[H + u]); // (4.7)
        g[u] = Math.tanh(a[2 * H + u]); // (4.8)
        o[u] = sigmoid(a[3 * H + u]); // (4.9)
        c[u] = f[u] * c[u] + i[u] * g[u]; // (4.10)
        h[u] = o[u] * Math.tanh(c[u]); // (4.11)
      }
    }
  }

  class Network {
    constructor(buffer) {
      const { tensors, symbols } = readTensors(buffer);
      this.symbols = symbols;
      this.layers = [];
      while (`lstm.weight_hh_l${this.layers.length}` in tensors)
        this.layers.push(new Layer(tensors, this.layers.length));
      this.head = dequantise(tensors, "head.weight");
      this.bias = tensors["head.bias"].values;
      this.sum = new Float64Array(this.head.padded);
    }

    reset() {
      for (const layer of this.layers) {
        layer.h.fill(0);
        layer.gates.c.fill(0);
      }
    }

    // One character through all layers, (8.1), and the head, (9.1): the logits (V,).
    read(id) {
      let x = null;
      for (const layer of this.layers) {
        if (x) layer.readLayer(x);
        else layer.readCharacter(id);
        layer.step();
        x = layer.h;
      }
      this.sum.fill(0);
      this.sum.set(this.bias);
      addProduct(this.head, x, this.sum);
      return this.sum.slice(0, this.symbols.length);
    }

    encode(text) {
      const ids = [...text].map((symbol) => this.symbols.indexOf(symbol));
      if (!ids.length) throw Error("the prompt is empty: give at least one character to start from");
      if (ids.includes(-1)) throw Error(explainUnknown([...text], this.symbols));
      return ids;
    }
  }

  function explainUnknown(text, symbols) {
    const unknown = [...new Set(text)].filter((s) => !symbols.includes(s)).sort();
    const listed = unknown.slice(0, 5).map((s) => {
      const code = s.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      return `'${s}' (U+${code}, first at position ${text.indexOf(s)})`;
    });
    const more = unknown.length > 5 ? ` and ${unknown.length - 5} more` : "";
    return (
      `not in the vocabulary of ${symbols.length} symbols: ${listed.join(", ")}${more}. ` +
      "Drop these characters, or write others in their place."
    );
  }

  const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);

  // (13.3), and its limit (13.4) for τ = 0.
  function boltzmann(logits, temperature) {
    const largest = Math.max(...logits);
    const weights = logits.map((z) =>
      temperature === 0 ? Number(z === largest) : Math.exp((z - largest) / temperature),
    );
    const Z = sum(weights);
    return weights.map((weight) => weight / Z);
  }

  function descending(numbers) {
    return [...numbers.keys()].sort((a, b) => numbers[b] - numbers[a]);
  }

  function keepTopK(logits, k) {
    const kept = logits.slice().fill(-Infinity);
    for (const j of descending(logits).slice(0, k)) kept[j] = logits[j];
    return kept;
  }

  // (13.12): a symbol goes if those before it have reached topP.
  function keepTopP(p, topP) {
    const kept = p.slice().fill(0);
    let before = 0;
    for (const j of descending(p)) {
      if (before >= topP) break;
      kept[j] = p[j];
      before += p[j];
    }
    const Z = sum(kept);
    return kept.map((weight) => weight / Z);
  }

  // The distribution to draw from; null keeps all symbols.
  function nextCharacter(logits, { temperature, topK = null, topP = null }) {
    const p = boltzmann(topK === null ? logits : keepTopK(logits, topK), temperature);
    return topP === null ? p : keepTopP(p, topP);
  }

  // In nats, (13.1).
  const entropy = (p) => -sum(p.map((q) => (q > 0 ? q * Math.log(q) : 0)));

  // Numbers in [0, 1), by mixing the bits of a counter: SplitMix of Steele, Lea and Flood
  // (2014), at 32 bits.
  function randomNumbers(seed) {
    const mix = (z) => {
      z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
      z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
      return (z ^ (z >>> 16)) >>> 0;
    };
    let counter = mix(seed);
    return () => {
      counter = (counter + 0x9e3779b9) | 0;
      return mix(counter) / 2 ** 32;
    };
  }

  // The symbol at whose share of [0, 1) the number u falls.
  function draw(p, u) {
    let chosen = -1;
    for (let j = 0, end = 0; j < p.length; j++) {
      if (p[j] === 0) continue;
      chosen = j;
      end += p[j];
      if (u < end) break;
    }
    return chosen;
  }

  return { Network, nextCharacter, entropy, randomNumbers, draw };
}
