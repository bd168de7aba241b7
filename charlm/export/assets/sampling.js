// Drawing a token from logits: the filters of charlm/sampling/filters.py, with the same definitions
// and in the same order: temperature, top k, top p, min p. <UNK> is never drawn.

const UNK = 1;

/**
 * Return a function that gives uniform random numbers in [0, 1), with 53 bits.
 *
 * The generator is sfc32 (Doty-Humphrey, PractRand): three words of state and a counter. It starts
 * from the seed, below 2^53, and the number of the text, so that text number k of a seed does not
 * depend on the texts before it.
 */
export function randomNumbers(seed, number = 0) {
  let a = seed >>> 0;
  let b = Math.floor(seed / 2 ** 32) >>> 0;
  let c = number >>> 0;
  let counter = 1;
  const next = () => {
    const result = (a + b + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + result | 0;
    return result >>> 0;
  };
  for (let k = 0; k < 15; k++) next(); // Mix the seed into all words.
  return () => ((next() >>> 5) * 2 ** 26 + (next() >>> 6)) / 2 ** 53;
}

/** Divide by the temperature, with the largest logit at zero. */
function applyTemperature(logits, temperature) {
  const largest = maximum(logits);
  return logits.map((logit) => (logit - largest) / temperature);
}

/** Keep the k most probable tokens, and those as probable as the last of them. */
function keepTopK(logits, k) {
  const least = Float64Array.from(logits).sort().at(-Math.min(k, logits.length));
  return logits.map((logit) => (logit < least ? -Infinity : logit));
}

/** Keep the fewest most probable tokens, at least one, whose probabilities together reach p. */
function keepTopP(logits, p) {
  const probabilities = softmax(logits);
  const order = Uint32Array.from(logits.keys());
  order.sort((i, j) => probabilities[j] - probabilities[i] || i - j);
  const kept = new Float64Array(logits.length).fill(-Infinity);
  let before = 0;
  for (const token of order) {
    if (before > 0 && before >= p) break;
    kept[token] = logits[token];
    before += probabilities[token];
  }
  return kept;
}

/** Keep the tokens with at least this fraction of the most probable token's probability. */
function keepMinP(logits, fraction) {
  const least = maximum(logits) + Math.log(fraction);
  return logits.map((logit) => (logit < least ? -Infinity : logit));
}

function maximum(values) {
  let largest = -Infinity;
  for (const value of values) if (value > largest) largest = value;
  return largest;
}

function softmax(logits) {
  const largest = maximum(logits);
  const result = logits.map((logit) => Math.exp(logit - largest));
  let total = 0;
  for (const value of result) total += value;
  return result.map((value) => value / total);
}

/**
 * Return the logits after the filters; -Infinity for tokens that may not be drawn.
 *
 * Options: temperature; topK, topP and minP, each null for none. `allows(token)` is a further rule,
 * which comes before all filters.
 */
export function filterLogits(logits, { temperature = 1, topK, topP, minP }, allows = null) {
  let left = Float64Array.from(logits, (logit, token) =>
    token === UNK || (allows && !allows(token)) ? -Infinity : logit,
  );
  if (temperature === 0) return left; // The most probable token passes all filters that follow.
  if (temperature !== 1) left = applyTemperature(left, temperature);
  if (topK) left = keepTopK(left, topK);
  if (topP !== null && topP !== undefined && topP < 1) left = keepTopP(left, topP);
  if (minP) left = keepMinP(left, minP);
  return left;
}

/** Draw a token by inverting the cumulative distribution; `uniform` is a number in [0, 1). */
export function drawToken(logits, uniform, options, allows = null) {
  const left = filterLogits(logits, options, allows);
  if (options.temperature === 0) return left.indexOf(maximum(left));
  let sum = 0;
  const cumulative = softmax(left).map((probability) => (sum += probability));
  const target = uniform * cumulative.at(-1) * (1 - 2 ** -52);
  const drawn = cumulative.findIndex((value) => value > target);
  if (drawn < 0) throw new Error("the probabilities are not finite");
  return drawn;
}
