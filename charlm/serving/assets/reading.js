/* The tokens of a text with their surprisal, and what it copies from the training text. */
import { post } from './shared.js';
import { S, run } from './state.js';

const MAX_KNOWN = 40, COMPARED = 8;
const readings = new Map();  // The latest ones, by run and text; the last is the newest.
const key = (name, text) => name + '\u0000' + text;

/* Positions in a request count characters; positions in a string of JavaScript count halves of some. */
const PAIR = /[\ud800-\udbff][\udc00-\udfff]/;
export function points(text, at) {
  const before = text.slice(0, at);
  return PAIR.test(before) ? [...before].length : at;
}
function position(text, points) {
  if (!PAIR.test(text.slice(0, 2 * points))) return points;
  let at = 0;
  for (; points > 0; points--) at += text.codePointAt(at) > 0xffff ? 2 : 1;
  return at;
}
export function commonStart(one, other) {
  const most = Math.min(one.length, other.length);
  let k = 0;
  while (k < most && one.charCodeAt(k) === other.charCodeAt(k)) k++;
  if (k && (one.charCodeAt(k - 1) & 0xfc00) === 0xd800) k--;
  return k;
}
/* The number of characters that two texts have in common at their ends, besides those at their beginnings. */
export function commonEnd(one, other, start) {
  const most = Math.min(one.length, other.length) - start;
  let k = 0;
  while (k < most && one.charCodeAt(one.length - 1 - k) === other.charCodeAt(other.length - 1 - k)) k++;
  return k;
}

export const known = text => readings.get(key(S.run, text));
function keep(name, reading) {
  const k = key(name, reading.text);
  readings.delete(k);
  readings.set(k, reading);
  if (readings.size > MAX_KNOWN) readings.delete(readings.keys().next().value);
}
/* The reading of this run that begins most like a text, and how far it does. */
function nearest(name, text, usable = () => true) {
  let best = null, length = -1;
  const recent = [...readings.values()].filter(reading => reading.run === name && usable(reading)).slice(-COMPARED);
  for (const reading of recent) {
    const same = commonStart(reading.text, text);
    if (same > length) { best = reading; length = same; }
  }
  return [best, Math.max(0, length)];
}

/* Read a text from the position at which it differs from one that is known. */
export async function read(text, signal) {
  const done = known(text);
  if (done) { keep(done.run, done); return done; }
  const name = S.run, [base, same] = nearest(name, text);
  const answer = await post('/page/read', { model: name, text, start: points(text, same), alternatives: 0 }, signal);
  const start = position(text, answer.start), tokens = [];
  let end = 0;
  for (const token of base?.tokens ?? []) {
    if (end + token.text.length > start) break;
    end += token.text.length;
    tokens.push(token);
  }
  while (tokens.length && !tokens.at(-1).text) tokens.pop();
  tokens.push(...answer.tokens);
  const reading = { run: name, text, tokens, cells: cellsOf(tokens), rest: answer.rest, copies: null, reason: null };
  keep(name, reading);
  return reading;
}

/* A cell is what is coloured: a token, or the tokens of one character. */
function cellsOf(tokens) {
  const cells = [];
  let start = 0, first = 0, bits = 0, isUnknown = false;
  tokens.forEach((token, k) => {
    bits += token.surprisal_bits;
    isUnknown ||= token.token === 1;
    if (!token.text) return;
    const end = start + token.text.length;
    cells.push({ text: token.text, start, end, bits, isUnknown, first: tokens[first], count: k + 1 - first });
    start = end;
    first = k + 1;
    bits = 0;
    isUnknown = false;
  });
  return cells;
}

/* Find the copied passages of a reading; `reason` says why they are not known. */
export async function findCopies(reading, signal) {
  if (reading.copies) return;
  const { text, run: name } = reading, [base, same] = nearest(name, text, other => other.copies && !other.reason);
  const answer = await post('/page/copies', { model: name, text, start: base ? points(text, same) : 0 }, signal);
  const start = position(text, answer.start);
  const earlier = (base?.copies ?? []).filter(([from]) => from < start).map(([from, to]) => [from, Math.min(to, start)]);
  reading.copies = [...earlier, ...answer.spans.map(([from, to]) => [position(text, from), position(text, to)])];
  reading.reason = answer.reason;
}
export function copiedCharacters(reading) {
  return (reading?.copies ?? []).reduce((total, [from, to]) => total + points(reading.text.slice(from, to), to - from), 0);
}
/* What an unknown token may be: a word ends at a mark, unless spaces separate the tokens. */
const CHARACTER = /[^]/uy, BETWEEN_SPACES = / ?[^ \n]+|[^]/uy;
const WORD = / ?[\p{L}\p{M}\p{N}_]+(?:['\u2019][\p{L}\p{M}\p{N}_]+)*| ?[^\s]|[^\S\n]+(?!\S)|[^]/uy;
/* The text of each token as the sentence has it: the tokens name unknown ones <UNK>. */
export function originals(sentence, tokens) {
  const { level, separates_by_space: isSpaced } = run(), one = level === 'char' ? CHARACTER : isSpaced ? BETWEEN_SPACES : WORD;
  let at = 0;
  return tokens.map(({ token, text }) => {
    let found = text;
    if (token === 1) {
      one.lastIndex = at;
      found = one.exec(sentence)?.[0] ?? '�';
    } else if (text && token !== 0 && !sentence.startsWith(text, at) && sentence.startsWith(' ' + text, at)) found = ' ' + text;
    at += found.length;
    return found;
  });
}
export const totalBits = cells => cells.reduce((total, cell) => total + cell.bits, 0);
