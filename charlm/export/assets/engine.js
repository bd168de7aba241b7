// A recurrent language model in plain JavaScript: weights, products, one step of every recurrence,
// and the network around it. It makes no request and needs no other file.
//
// The equations are those of charlm/model/cells, in the same order, for a single sequence: where
// Python has (batch, hidden), this file has a Float32Array of the hidden size. Sums are computed in
// double precision, which is all that JavaScript has, and are rounded when they are stored.

/* ---- Vectors. */

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const logSigmoid = (x) => Math.min(x, 0) - Math.log1p(Math.exp(-Math.abs(x)));
const softplus = (x) => -logSigmoid(-x);
const tanh = Math.tanh;
const identity = (x) => x;

/** Return the vector whose entry j is f(j). */
function vector(size, f) {
  const result = new Float32Array(size);
  for (let j = 0; j < size; j++) result[j] = f(j);
  return result;
}

const add = (a, b) => vector(a.length, (j) => a[j] + b[j]);
const map = (a, f) => vector(a.length, (j) => f(a[j]));

function concatenate(...parts) {
  const result = new Float32Array(parts.reduce((size, part) => size + part.length, 0));
  let start = 0;
  for (const part of parts) {
    result.set(part, start);
    start += part.length;
  }
  return result;
}

/** Return a vector in parts of equal size. */
function chunk(a, parts) {
  const size = a.length / parts;
  return Array.from({ length: parts }, (_, k) => a.subarray(k * size, (k + 1) * size));
}

/** Return log softmax, in double precision. */
export function logSoftmax(logits) {
  let largest = -Infinity;
  for (const logit of logits) if (logit > largest) largest = logit;
  let total = 0;
  for (const logit of logits) total += Math.exp(logit - largest);
  const shift = largest + Math.log(total);
  return Float64Array.from(logits, (logit) => logit - shift);
}

function logSumExp(values) {
  const largest = Math.max(...values);
  return largest + Math.log(values.reduce((sum, value) => sum + Math.exp(value - largest), 0));
}

/* ---- Weights. */

function bytesOfBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let k = 0; k < bytes.length; k++) bytes[k] = binary.charCodeAt(k);
  return bytes;
}

/** Return the number that 16 bits stand for: IEEE 754, half precision. */
function halfToNumber(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * 2 ** -24 * fraction;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * 2 ** (exponent - 25) * (1024 + fraction);
}

/**
 * Return the tensors of a model by name, each {values, scales, rows, columns}.
 *
 * A vector has rows 0. The type "= NAME" is a tensor that has come before. A matrix of type int8 is
 * its scales, one fp32 number per row, and then its integers: weight = scale of the row * integer.
 * All numbers are little-endian.
 */
function readTensors(descriptions, base64) {
  const bytes = bytesOfBase64(base64);
  let position = 0;
  const take = (count, width) => bytes.slice(position, (position += count * width)).buffer;
  const tensors = new Map();
  for (const [name, type, rows, columns] of descriptions) {
    if (type.startsWith("= ")) {
      tensors.set(name, tensors.get(type.slice(2)));
      continue;
    }
    const size = Math.max(rows, 1) * columns;
    const scales = type === "int8" ? new Float32Array(take(rows, 4)) : null;
    const values = {
      int8: () => Float32Array.from(new Int8Array(take(size, 1))),
      fp16: () => Float32Array.from(new Uint16Array(take(size, 2)), halfToNumber),
      fp32: () => new Float32Array(take(size, 4)),
    };
    tensors.set(name, { values: values[type](), scales, rows, columns });
  }
  if (position !== bytes.length) throw new Error("the weights do not have the described size");
  return tensors;
}

/* ---- Products of weights with vectors. */

/** A matrix and an optional bias: W v + b. */
class Matrix {
  constructor(weight, bias) {
    Object.assign(this, weight);
    this.bias = bias ? bias.values : null;
  }

  times(v) {
    const { values, scales, bias, rows, columns } = this;
    const result = new Float32Array(rows);
    multiply(values, v, result, rows, columns);
    for (let r = 0; r < rows; r++) {
      result[r] = (scales ? scales[r] * result[r] : result[r]) + (bias ? bias[r] : 0);
    }
    return result;
  }

  /** Return a row, without the bias. */
  row(r) {
    const { values, scales, columns } = this;
    const scale = scales ? scales[r] : 1;
    return map(values.subarray(r * columns, (r + 1) * columns), (value) => scale * value);
  }
}

/** result = W v. Four rows at once, so that each entry of v is loaded once for four products. */
function multiply(w, v, result, rows, columns) {
  const even = columns - (columns % 2);
  let r = 0;
  for (; r + 4 <= rows; r += 4) {
    const a = r * columns, b = a + columns, c = b + columns, d = c + columns;
    let sumA = 0, sumB = 0, sumC = 0, sumD = 0;
    for (let k = 0; k < even; k += 2) {
      const x = v[k], y = v[k + 1];
      sumA += w[a + k] * x + w[a + k + 1] * y;
      sumB += w[b + k] * x + w[b + k + 1] * y;
      sumC += w[c + k] * x + w[c + k + 1] * y;
      sumD += w[d + k] * x + w[d + k + 1] * y;
    }
    if (even < columns) {
      const x = v[even];
      sumA += w[a + even] * x;
      sumB += w[b + even] * x;
      sumC += w[c + even] * x;
      sumD += w[d + even] * x;
    }
    result[r] = sumA;
    result[r + 1] = sumB;
    result[r + 2] = sumC;
    result[r + 3] = sumD;
  }
  for (; r < rows; r++) {
    let sum = 0;
    for (let k = 0, a = r * columns; k < columns; k++) sum += w[a + k] * v[k];
    result[r] = sum;
  }
}

/** One or several diagonal matrices, one below the other: w * v, entry by entry. */
class Diagonal {
  constructor(weight) {
    this.values = weight.values;
  }

  times(v) {
    return vector(this.values.length, (j) => this.values[j] * v[j % v.length]);
  }
}

/** Two products, one after the other. */
class Chain {
  constructor(first, second) {
    this.first = first;
    this.second = second;
  }

  times(v) {
    return this.second.times(this.first.times(v));
  }
}

/* ---- The recurrences. `product(name)` gives the product of this name in the Python cell. */

/** A cell: project(x) is what depends on the input alone; step(projected, state) is a new state. */
class Cell {
  constructor(product, size) {
    this.size = size;
    this.tensors = 1; // Number of vectors of a state; the first one is the output.
    this.input = product("input");
    this.recurrent = product("recurrent");
  }

  project(x) {
    return this.input.times(x);
  }
}

/** s <- s + x */
class Bag extends Cell {
  project(x) {
    return x;
  }

  step(x, [sum]) {
    return [add(sum, x)];
  }
}

/** h <- g(W_hx x + W_hh h + b) */
class Elman extends Cell {
  constructor(product, size, { activation }) {
    super(product, size);
    this.activation = { tanh, sigmoid, relu: (x) => Math.max(x, 0) }[activation];
  }

  step(projected, [hidden]) {
    return [map(add(projected, this.recurrent.times(hidden)), this.activation)];
  }
}

/** h <- (1 - u) * candidate + u * h */
const interpolate = (candidate, update, hidden) =>
  vector(hidden.length, (j) => candidate[j] + update[j] * (hidden[j] - candidate[j]));

/** The reset gate multiplies the recurrent product with its bias: the form of torch. */
class GRU extends Cell {
  step(projected, [hidden]) {
    const [resetX, updateX, candidateX] = chunk(projected, 3);
    const [resetH, updateH, candidateH] = chunk(this.recurrent.times(hidden), 3);
    const reset = map(add(resetX, resetH), sigmoid);
    const update = map(add(updateX, updateH), sigmoid);
    const candidate = vector(this.size, (j) => tanh(candidateX[j] + reset[j] * candidateH[j]));
    return [interpolate(candidate, update, hidden)];
  }
}

/** The reset gate multiplies h before the recurrent matrix. */
class ResetBeforeGRU extends Cell {
  constructor(product, size) {
    super(product, size);
    this.candidate = product("candidate");
  }

  step(projected, [hidden]) {
    const [resetX, updateX, candidateX] = chunk(projected, 3);
    const [resetH, updateH] = chunk(this.recurrent.times(hidden), 2);
    const reset = map(add(resetX, resetH), sigmoid);
    const update = map(add(updateX, updateH), sigmoid);
    const kept = vector(this.size, (j) => reset[j] * hidden[j]);
    const candidate = map(add(candidateX, this.candidate.times(kept)), tanh);
    return [interpolate(candidate, update, hidden)];
  }
}

/** There is no reset gate. */
class ResetFreeGRU extends Cell {
  step(projected, [hidden]) {
    const [update, candidate] = chunk(add(projected, this.recurrent.times(hidden)), 2);
    return [interpolate(map(candidate, tanh), map(update, sigmoid), hidden)];
  }
}

/** The step of an LSTM from the sums of its gates. */
function lstmStep(input, forget, candidate, output, memory) {
  const size = memory.length;
  const after = vector(
    size,
    (j) => sigmoid(forget[j]) * memory[j] + sigmoid(input[j]) * tanh(candidate[j]),
  );
  return [vector(size, (j) => sigmoid(output[j]) * tanh(after[j])), after];
}

/** c <- f * c + i * candidate; h <- o * tanh(c) */
class LSTM extends Cell {
  constructor(product, size) {
    super(product, size);
    this.tensors = 2;
  }

  step(projected, [hidden, memory]) {
    // In torch's order: input, forget, candidate, output.
    const sums = chunk(add(projected, this.recurrent.times(hidden)), 4);
    return lstmStep(...sums, memory);
  }
}

/** Peepholes, parts left out, coupled and capped gates, full gate recurrence. */
class LSTMVariant extends Cell {
  constructor(product, size, { without, coupled, capped, peepholes, full_gate_recurrence }) {
    super(product, size);
    const missing = [...without, ...(coupled ? ["forget_gate"] : [])];
    this.gates = ["input", "forget", "output"].filter((name) => !missing.includes(`${name}_gate`));
    this.coupled = coupled;
    this.capped = capped;
    this.inputActivation = without.includes("input_activation") ? identity : tanh;
    this.outputActivation = without.includes("output_activation") ? identity : tanh;
    this.peepholes = Object.fromEntries(
      this.gates
        .filter((name) => peepholes.includes(name))
        .map((name) => [name, product(`peepholes.${name}`)]),
    );
    this.gateRecurrence = full_gate_recurrence ? product("gate_recurrence") : null;
    this.tensors = 2 + (full_gate_recurrence ? this.gates.length : 0);
  }

  step(projected, [hidden, memory, ...gatesBefore]) {
    const { size, inputActivation, outputActivation } = this;
    const sums = this.gateSums(projected, hidden, gatesBefore);
    let input = this.gate("input", sums, memory);
    const forget = this.coupled ? map(input, (i) => 1 - i) : this.gate("forget", sums, memory);
    if (this.capped) {
      const uncapped = input;
      input = vector(size, (j) => Math.min(uncapped[j], 1 - forget[j]));
    }
    const after = vector(
      size,
      (j) => forget[j] * memory[j] + input[j] * inputActivation(sums.candidate[j]),
    );
    const output = this.gate("output", sums, after);
    const gates = { input, forget, output };
    return [
      vector(size, (j) => output[j] * outputActivation(after[j])),
      after,
      ...gatesBefore.map((_, k) => gates[this.gates[k]]),
    ];
  }

  /** Return a gate, with its peephole; 1 if it is left out. */
  gate(name, sums, memory) {
    if (!this.gates.includes(name)) return new Float32Array(this.size).fill(1);
    const peephole = this.peepholes[name];
    const sum = peephole ? add(sums[name], peephole.times(memory)) : sums[name];
    return map(sum, sigmoid);
  }

  gateSums(projected, hidden, gatesBefore) {
    const count = this.gates.length;
    const parts = chunk(add(projected, this.recurrent.times(hidden)), count + 1);
    const sums = { candidate: parts[count] };
    const earlier = this.gateRecurrence?.times(concatenate(...gatesBefore));
    this.gates.forEach((name, k) => {
      sums[name] = earlier ? add(parts[k], chunk(earlier, count)[k]) : parts[k];
    });
    return sums;
  }
}

/** c <- LSTM_inner(input i * z, hidden f * c); h <- o * tanh(c), at each level. */
class NestedLSTM extends Cell {
  constructor(product, size, { depth }) {
    super(product, size);
    this.tensors = 1 + depth;
    this.inner = Array.from({ length: depth - 1 }, (_, k) => product(`inner.${k}`));
  }

  step(projected, [hidden, ...memories]) {
    return this.stepLevel(0, add(projected, this.recurrent.times(hidden)), memories);
  }

  /** Return the output of a level, its memory, and the memories inside it. */
  stepLevel(level, sums, [memory, ...innerMemories]) {
    const [input, forget, output, z] = chunk(sums, 4);
    if (!innerMemories.length) return lstmStep(input, forget, z, output, memory);
    const innerSums = this.inner[level].times(
      concatenate(
        vector(this.size, (j) => sigmoid(input[j]) * z[j]),
        vector(this.size, (j) => sigmoid(forget[j]) * memory[j]),
      ),
    );
    const [after, ...innerAfter] = this.stepLevel(level + 1, innerSums, innerMemories);
    return [vector(this.size, (j) => sigmoid(output[j]) * tanh(after[j])), after, ...innerAfter];
  }
}

/** In turn x <- 2 sigmoid(Q h) * x and h <- 2 sigmoid(R x) * h; then the step of an LSTM. */
class MogrifierLSTM extends Cell {
  constructor(product, size, { rounds, rank }) {
    super(product, size);
    this.tensors = 2;
    this.rounds = Array.from({ length: rounds }, (_, k) =>
      rank === null
        ? product(`mogrifier.${k}`)
        : new Chain(product(`mogrifier.${k}.0`), product(`mogrifier.${k}.1`)),
    );
  }

  project(x) {
    return x;
  }

  step(x, [hidden, memory]) {
    const scale = (gate, v) => vector(v.length, (j) => 2 * sigmoid(gate[j]) * v[j]);
    this.rounds.forEach((round, k) => {
      if (k % 2 === 0) x = scale(round.times(hidden), x);
      else hidden = scale(round.times(x), hidden);
    });
    const sums = chunk(add(this.input.times(x), this.recurrent.times(hidden)), 4);
    return lstmStep(...sums, memory);
  }
}

/** h <- (1 - z) * h + z * candidate, where both see the input alone. */
class MinGRU extends Cell {
  step(projected, [hidden]) {
    const [update, candidate] = chunk(projected, 2);
    return [
      vector(
        this.size,
        (j) => sigmoid(-update[j]) * hidden[j] + sigmoid(update[j]) * candidate[j],
      ),
    ];
  }
}

/** h <- f * h + i * candidate, where f and i see the input alone and their sum is 1. */
class MinLSTM extends Cell {
  step(projected, [hidden]) {
    const [forget, input, candidate] = chunk(projected, 3);
    const difference = vector(this.size, (j) => logSigmoid(forget[j]) - logSigmoid(input[j]));
    return [
      vector(
        this.size,
        (j) => sigmoid(difference[j]) * hidden[j] + sigmoid(-difference[j]) * candidate[j],
      ),
    ];
  }
}

/**
 * r, i = sigmoid(W x + b); log a = -8 r softplus(decay); h <- a h + sqrt(1 - a^2) i candidate
 */
class RGLRU extends Cell {
  constructor(product, size, options, vectors) {
    super(product, size);
    this.rate = map(vectors("decay"), (x) => 8 * softplus(x));
  }

  step(projected, [hidden]) {
    const [recurrence, input, candidate] = chunk(projected, 3);
    return [
      vector(this.size, (j) => {
        const logDecay = -this.rate[j] * sigmoid(recurrence[j]);
        const increment = Math.sqrt(-Math.expm1(2 * logDecay)) * sigmoid(input[j]) * candidate[j];
        return Math.exp(logDecay) * hidden[j] + increment;
      }),
    ];
  }
}

/** f = bound + (1 - bound) * sigmoid(W x + b); h <- f * h + (1 - f) * swish(candidate) */
class HGRN extends Cell {
  constructor(product, size, options, vectors, layer, layers) {
    super(product, size);
    this.bound = vector(size, (j) => {
      const entries = Array.from({ length: layers }, (_, k) => vectors("bound", k)[j]);
      return logSoftmax(entries)
        .slice(1, layer + 1)
        .reduce((sum, logP) => sum + Math.exp(logP), 0);
    });
  }

  step(projected, [hidden]) {
    const [forget, candidate] = chunk(projected, 2);
    return [
      vector(this.size, (j) => {
        const kept = this.bound[j] + (1 - this.bound[j]) * sigmoid(forget[j]);
        const increment = (1 - this.bound[j]) * sigmoid(-forget[j]);
        return kept * hidden[j] + increment * candidate[j] * sigmoid(candidate[j]);
      }),
    ];
  }
}

/** A mean of candidates with exponential weights: memory / normalizer, both scaled by exp(-m). */
class SLSTM extends Cell {
  constructor(product, size) {
    super(product, size);
    this.tensors = 4;
  }

  step(projected, [hidden, memory, normalizer, stabilizer]) {
    const { size } = this;
    const sums = chunk(add(projected, this.recurrent.times(hidden)), 4);
    const [logInput, forgetSum, candidate, output] = sums;
    const logForget = vector(size, (j) => stabilizer[j] + logSigmoid(forgetSum[j]));
    const after = vector(size, (j) => Math.max(logInput[j], logForget[j]));
    const input = vector(size, (j) => Math.exp(logInput[j] - after[j]));
    const forget = vector(size, (j) => Math.exp(logForget[j] - after[j]));
    const newMemory = vector(size, (j) => forget[j] * memory[j] + input[j] * tanh(candidate[j]));
    const newNormalizer = vector(size, (j) => {
      const positive = Math.max(normalizer[j], Math.abs(memory[j])) + 1e-30;
      return forget[j] * positive + input[j];
    });
    return [
      vector(size, (j) => sigmoid(output[j]) * (newMemory[j] / newNormalizer[j])),
      newMemory,
      newNormalizer,
      after,
    ];
  }
}

/** A GRU whose recurrent matrices are diagonal. */
class DiagonalGRU extends GRU {
  constructor(product, size) {
    super(product, size);
    this.recurrent = product("diagonals");
  }
}

/** An LSTM whose recurrent matrices are diagonal. */
class DiagonalLSTM extends LSTM {
  constructor(product, size) {
    super(product, size);
    this.recurrent = product("diagonals");
  }
}

const GRUS = { after: GRU, before: ResetBeforeGRU, none: ResetFreeGRU };
const isVariant = (options) =>
  options.peepholes.length > 0 ||
  options.without.length > 0 ||
  options.coupled ||
  options.capped ||
  options.full_gate_recurrence;
const CELLS = {
  bag: () => Bag,
  elman: () => Elman,
  gru: (options) => GRUS[options.reset],
  lstm: (options) => (isVariant(options) ? LSTMVariant : LSTM),
  nested_lstm: () => NestedLSTM,
  mogrifier_lstm: () => MogrifierLSTM,
  min_gru: () => MinGRU,
  min_lstm: () => MinLSTM,
  rg_lru: () => RGLRU,
  hgrn: () => HGRN,
  slstm: () => SLSTM,
  diagonal_gru: () => DiagonalGRU,
  diagonal_lstm: () => DiagonalLSTM,
};

/* ---- Around the cells. */

/** Layer normalization (Ba et al. 2016), with the constant of torch. */
class LayerNorm {
  constructor(weight, bias) {
    this.weight = weight.values;
    this.bias = bias.values;
  }

  apply(x) {
    let mean = 0;
    let variance = 0;
    for (const value of x) mean += value / x.length;
    for (const value of x) variance += (value - mean) ** 2 / x.length;
    const factor = 1 / Math.sqrt(variance + 1e-5);
    return vector(x.length, (j) => (x[j] - mean) * factor * this.weight[j] + this.bias[j]);
  }
}

/** Division by the root mean square (Zhang and Sennrich 2019). */
class RMSNorm {
  constructor(weight) {
    this.weight = weight.values;
  }

  apply(x) {
    let mean = 0;
    for (const value of x) mean += (value * value) / x.length;
    const factor = 1 / Math.sqrt(mean + 1e-6);
    return vector(x.length, (j) => x[j] * factor * this.weight[j]);
  }
}

const gelu = (x) => 0.5 * x * (1 + tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

/** The residual block of Griffin around a recurrence: De et al. 2024. */
class GriffinBlock {
  constructor(product, tensor) {
    this.mixingNorm = new RMSNorm(tensor("mixing_norm.weight"));
    this.gate = product("gate");
    this.output = product("output");
    this.mlpNorm = new RMSNorm(tensor("mlp_norm.weight"));
    this.mlpInput = product("mlp_input");
    this.mlpOutput = product("mlp_output");
  }

  /** Return the stream after the recurrence, whose input and output are given, and the MLP. */
  apply(x, normalized, y) {
    const gate = this.gate.times(normalized);
    const mixed = add(x, this.output.times(vector(y.length, (j) => gelu(gate[j]) * y[j])));
    const [mlpGate, value] = chunk(this.mlpInput.times(this.mlpNorm.apply(mixed)), 2);
    const units = vector(value.length, (j) => gelu(mlpGate[j]) * value[j]);
    return add(mixed, this.mlpOutput.times(units));
  }
}

/** log p = log sum_k pi_k softmax(W tanh(V_k h) + b), pi = softmax(U h): Yang et al. 2018. */
class Mixture {
  constructor(product, softmaxes) {
    this.output = product("projection");
    this.prior = product("projection.prior");
    this.latent = product("projection.latent");
    this.softmaxes = softmaxes;
  }

  times(hidden) {
    const prior = logSoftmax(this.prior.times(hidden));
    const components = chunk(map(this.latent.times(hidden), tanh), this.softmaxes).map((latent) =>
      logSoftmax(this.output.times(latent)),
    );
    return vector(components[0].length, (token) =>
      logSumExp(components.map((component, k) => prior[k] + component[token])),
    );
  }
}

/** Frequent tokens and clusters share a head; a cluster has its own softmax: Grave et al. 2017. */
class AdaptiveSoftmax {
  constructor(product, cutoffs, size) {
    this.head = product("projection.head");
    this.tails = cutoffs.map(
      (_, k) => new Chain(product(`projection.tail.${k}.0`), product(`projection.tail.${k}.1`)),
    );
    this.cutoffs = cutoffs;
    this.size = size;
  }

  times(hidden) {
    const head = logSoftmax(this.head.times(hidden));
    const result = new Float32Array(this.size);
    const frequent = this.cutoffs[0];
    result.set(head.subarray(0, frequent));
    this.tails.forEach((tail, k) => {
      const cluster = logSoftmax(tail.times(hidden));
      result.set(cluster.map((logP) => logP + head[frequent + k]), this.cutoffs[k]);
    });
    return result;
  }
}

const PRIME = 67108859; // The largest below 2 ** 26.
const FACTOR = 41475557; // FACTOR * PRIME + id is below 2 ** 53: an exact integer.

/** Rows of hash tables for the last 2, 3, ... tokens: the class of this name in Python. */
class NgramEmbedding {
  constructor(table, order, buckets) {
    Object.assign(this, { table, order, buckets });
  }

  /** The state is a list with the vector of the last ids, the oldest one first. */
  initialState() {
    return [new Float32Array(this.order - 1)];
  }

  /** Return {rows, state}: the rows of the n-grams that end with a token, and the last ids. */
  read(token, [last]) {
    const rows = [];
    let key = token;
    let newer = token;
    for (let distance = 1; distance < this.order; distance++) {
      // No n-gram crosses an <EOS>, token 0.
      const older = newer === 0 ? 0 : last[last.length - distance];
      key = (key * FACTOR + older) % PRIME;
      rows.push(this.table.row((key % this.buckets) + (distance - 1) * this.buckets));
      newer = older;
    }
    return { rows: concatenate(...rows), state: [Float32Array.of(...last.subarray(1), token)] };
  }
}

const MAX_TABLE = 2 ** 22; // Numbers that the table of projected tokens may hold: 16 MB.

/**
 * A language model of one direction, as charlm exports it: {network, tensors, weights}.
 *
 * step(token, state) returns the logits of the next token and the state after the token. A state is
 * a list with a list of vectors per layer, and one for n-grams. No call changes a state, so states
 * can be kept.
 */
export class Network {
  constructor({ network, tensors, weights }) {
    const all = readTensors(tensors, weights);
    const product = (name) => {
      const weight = all.get(`${name}.weight`);
      if (!weight) return null;
      return weight.rows ? new Matrix(weight, all.get(`${name}.bias`)) : new Diagonal(weight);
    };
    this.vocabularySize = network.vocabulary_size;
    this.skip = network.skip;
    this.embedding = product("embedding"); // Null: tokens are one-hot vectors.
    this.ngrams = network.ngrams
      ? new NgramEmbedding(product("ngrams"), network.ngrams, network.ngram_buckets)
      : null;
    this.cells = network.cell_sizes.map(
      (size, layer) =>
        new (CELLS[network.cell.kind](network.cell))(
          (name) => product(`layers.${layer}.${name}`),
          size,
          network.cell,
          (name, k = layer) => all.get(`layers.${k}.${name}`).values,
          layer,
          network.cell_sizes.length,
        ),
    );
    this.norms = this.cells.map((_, layer) => {
      const weight = all.get(`layers.${layer}.norm.weight`);
      const bias = all.get(`layers.${layer}.norm.bias`);
      if (!weight) return null;
      return bias ? new LayerNorm(weight, bias) : new RMSNorm(weight);
    });
    const hasBlocks = network.block === "griffin";
    this.blocks = this.cells.flatMap((_, layer) => {
      const place = `layers.${layer}.block`;
      const tensor = (name) => all.get(`${place}.${name}`);
      return hasBlocks ? [new GriffinBlock((name) => product(`${place}.${name}`), tensor)] : [];
    });
    this.initial = this.cells.map((cell, layer) =>
      Array.from(
        { length: cell.tensors },
        (_, k) => all.get(`layers.${layer}.initial.${k}`)?.values ?? new Float32Array(cell.size),
      ),
    );
    this.adapter = product("adapter");
    this.projection = this.makeProjection(network, product);
    this.table = new Map();
  }

  makeProjection({ mixture, adaptive_cutoffs: cutoffs, vocabulary_size: size }, product) {
    if (cutoffs.length) return new AdaptiveSoftmax(product, cutoffs, size);
    return mixture > 1 ? new Mixture(product, mixture) : product("projection");
  }

  initialState() {
    return this.ngrams ? [...this.initial, this.ngrams.initialState()] : this.initial;
  }

  step(token, state) {
    const { features, state: after } = this.advance(token, state);
    const adapted = this.adapter ? this.adapter.times(features) : features;
    return { logits: this.projection.times(adapted), state: after };
  }

  /** Return the state after a token, without the logits, which take longer than a small cell. */
  read(token, state) {
    return this.advance(token, state).state;
  }

  advance(token, state) {
    const ngrams = this.ngrams?.read(token, state[this.cells.length]);
    const run = this.blocks.length
      ? this.runBlocks(token, state, ngrams)
      : this.runLayers(token, state, ngrams);
    return { features: run.features, state: ngrams ? [...run.state, ngrams.state] : run.state };
  }

  runLayers(token, state, ngrams) {
    let x = null;
    let total = null;
    const after = this.cells.map((cell, layer) => {
      const projected =
        layer === 0
          ? this.projectToken(token, ngrams?.rows)
          : cell.project(this.normalize(layer - 1, x));
      const layerState = cell.step(projected, state[layer]);
      const y = layerState[0];
      x = layer && this.skip === "residual" ? add(x, y) : y;
      total = total && this.skip === "sum" ? add(total, y) : y;
      return layerState;
    });
    const features = this.normalize(this.cells.length - 1, this.skip === "sum" ? total : x);
    return { features, state: after };
  }

  runBlocks(token, state, ngrams) {
    let x = ngrams ? concatenate(this.embed(token), ngrams.rows) : this.embed(token);
    const after = this.cells.map((cell, layer) => {
      const block = this.blocks[layer];
      const normalized = block.mixingNorm.apply(x);
      const layerState = cell.step(cell.project(normalized), state[layer]);
      x = block.apply(x, normalized, layerState[0]);
      return layerState;
    });
    return { features: this.normalize(this.cells.length - 1, x), state: after };
  }

  normalize(layer, x) {
    return this.norms[layer] ? this.norms[layer].apply(x) : x;
  }

  /** Return what the first layer computes from a token, and the rows of its n-grams if any. */
  projectToken(token, rows) {
    if (rows) return this.cells[0].project(concatenate(this.embed(token), rows));
    // What it computes from a token alone is kept for the next time.
    if (this.table.has(token)) return this.table.get(token);
    const projected = this.cells[0].project(this.embed(token));
    if ((this.table.size + 1) * projected.length <= MAX_TABLE) this.table.set(token, projected);
    return projected;
  }

  embed(token) {
    if (this.embedding) return this.embedding.row(token);
    return vector(this.vocabularySize, (id) => (id === token ? 1 : 0));
  }
}
