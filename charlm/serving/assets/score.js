/* The view Score: sentences, ranked, with the tokens that decide. */
import { $, $$, beginning, bin, count, el, latest, plural, post, quoted, say, SURPRISAL } from './shared.js';
import { originals } from './reading.js';
import { S, run, save } from './state.js';

const MAX_SENTENCES = 50, MAX_CHARACTERS = 500, LISTED = 3;
let scored = null;

const typed = () => $('#sents').value.split('\n').filter(line => line.trim());
const lines = () => typed().slice(0, MAX_SENTENCES).map(line => beginning(line, MAX_CHARACTERS));
const score = latest(300, async signal => {
  const sentences = lines(), name = S.run, explain = run().direction !== 'both';
  if (!sentences.length) { scored = []; draw(); return; }
  const answer = await post('/v1/score', { model: name, sentences, explain }, signal);
  scored = answer.sentences.map(describe);
  draw();
  say(`Ranked ${plural(scored.length, 'sentence')}`);
});
function describe(sentence) {
  const bits = -sentence.log_probability / Math.LN2;
  const explained = sentence.explained ?? [], texts = originals(sentence.text, explained);
  const tokens = explained.map(({ token, log_probability: p }, k) => ({
    text: token === 0 ? '↵' : texts[k], id: token, bits: -p / Math.LN2,
  }));
  return { text: sentence.text, sum: bits, m: bits / Math.max(1, [...sentence.text].length), tokens, unknown: sentence.unknown };
}

/* Where two sequences of tokens differ: what they have in common at both ends is left out. */
function difference(one, other) {
  const most = Math.min(one.length, other.length);
  let head = 0, tail = 0;
  while (head < most && one[head].text === other[head].text) head++;
  while (tail < most - head && one[one.length - 1 - tail].text === other[other.length - 1 - tail].text) tail++;
  return { from: head, to: one.length - tail, same: head + tail };
}
function mostSimilar(row, rows) {
  let best = null;
  rows.forEach((other, number) => {
    if (other === row || other.text === row.text) return;
    const found = difference(row.tokens, other.tokens);
    if (found.same >= row.tokens.length / 2 && (!best || found.same > best.same)) best = { ...found, number, other };
  });
  return best;
}
function explain(row, rows) {
  if (!row.tokens.length) return { marks: [], why: '' };
  const pair = mostSimilar(row, rows);
  if (pair) {
    const to = Math.max(pair.to, pair.from + 1), marks = row.tokens.slice(pair.from, to), gap = row.sum - pair.other.sum;
    const words = marks.map(token => token.text).join('').trim() || '␣';
    return { marks, why: `Differs from ${pair.number + 1} at ${quoted(words)} and has ${Math.abs(gap).toFixed(1)} bits ${gap > 0 ? 'more' : 'less'} in total.` };
  }
  const marks = [...row.tokens].sort((a, b) => b.bits - a.bits).slice(0, LISTED);
  return { marks, why: 'Most bits: ' + marks.map(token => `${quoted(token.text)} ${token.bits.toFixed(1)}`).join(', ') + '.' };
}
function draw() {
  if (!scored) return;
  const rows = [...scored].sort((a, b) => a[S.rank] - b[S.rank]);
  const head = el('li', { class: 'h', 'aria-hidden': 'true' }, el('span'), el('span', {}, 'Sentence'),
    el('span', { class: 'v' }, 'bits/char'), el('span', { class: 'v tot' }, 'bits'));
  $('#scores').replaceChildren(...rows.length ? [head] : [], ...rows.map((row, k) => item(row, k, rows)));
  $('#scores-note').textContent = rows.length ? leftOut()
    : 'No sentence yet. Type one, or several that differ in a word.';
}
function leftOut() {
  const all = typed(), more = all.length - MAX_SENTENCES, notes = [];
  if (more > 0) notes.push(`The first ${MAX_SENTENCES} sentences are ranked; ${count(more)} more are not.`);
  if (all.slice(0, MAX_SENTENCES).some(line => beginning(line, MAX_CHARACTERS) !== line)) {
    notes.push(`Of a longer sentence, the first ${MAX_CHARACTERS} characters are scored.`);
  }
  return notes.join(' ');
}
function item(row, k, rows) {
  const { marks, why } = explain(row, rows), tx = el('div', { class: 'tx', dir: 'auto' });
  for (const token of row.tokens) {
    const style = [token.id === 1 ? 'unk' : 'u' + bin(token.bits, SURPRISAL), marks.includes(token) && 'big'].filter(Boolean).join(' ');
    tx.append(el('i', { class: style }, token.text));
  }
  if (!row.tokens.length) tx.append(row.text);
  const unknown = row.unknown ? ` ${plural(row.unknown, 'token')} not known to the model.` : '';
  return el('li', {}, el('span', { class: 'n' }, String(k + 1)), tx,
    el(S.rank === 'm' ? 'b' : 'span', { class: 'v' }, row.m.toFixed(2)), el(S.rank === 'sum' ? 'b' : 'span', { class: 'v tot' }, row.sum.toFixed(1)),
    el('span', { class: 'why' }, why + unknown));
}

$('#sents').addEventListener('input', event => { S.sents = event.target.value; save(); score(); });
for (const radio of $$('input[name=rank]')) {
  radio.addEventListener('change', () => { S.rank = radio.value; save(); draw(); });
}

/* Two lines that the model wrote, and the first one with two words exchanged. */
function example() {
  const lines = run().example.split('\n').slice(1).map(line => line.trim());
  const [first, second] = lines.filter(line => line.length < 70 && line.split(' ').length > 3);
  if (!first) return lines.filter(Boolean).slice(0, 3).join('\n');
  const words = first.split(' ');
  return [first, [words[0], words[2], words[1], ...words.slice(3)].join(' '), ...second ? [second] : []].join('\n');
}
export function begin() {
  $('#sents').value = S.sents ?? example();
  $(`input[name=rank][value=${S.rank}]`).checked = true;
}
export const leave = () => score.cancel();
export function show() {
  if (S.sents === null) $('#sents').value = example();
  score();
}
