/* The view Memory: which earlier tokens the prediction of each token depends on. */
import { $, $$, bars, beginning, bin, clamp, el, flat, isShortcut, latest, MEMORY, percent, plural, post, quoted, scale, spoken } from './shared.js';
import { originals } from './reading.js';
import { S, limits, run, save, unit } from './state.js';

let memory = null, position = 0, kept = null;
const node = $('#mem');

const measure = latest(400, async signal => {
  const text = beginning($('#msent').value, limits.memory_characters);
  if ([...text].length < 2) { memory = null; draw(`Type at least two ${unit()}s.`); return; }
  $('#mem-note').textContent = 'Measuring …';
  node.setAttribute('aria-busy', 'true');
  try {
    const answer = await post('/page/memory', { model: S.run, text }, signal);
    const { predictions } = answer, texts = originals(text, predictions);
    // A long text ends where it ends: the end of the document is not part of it.
    if (predictions.at(-1).token === 0 && !run().writes_records) predictions.pop();
    memory = predictions.map(({ token, probability, alternatives, squared_norms: norms }, k) => {
      const most = Math.max(...norms, 0);
      return { token, text: texts[k], probability, alternatives, relative: norms.map(value => most ? value / most : 0) };
    });
    const read = memory.length >= limits.memory_tokens ? `The first ${plural(memory.length, unit())} are measured.` : '';
    position = clamp(position || memory.length - 4, 0, memory.length - 1);
    draw(read);
  } catch (error) {
    if (error.status === 400) { memory = null; draw(error.message); return; }
    throw error;
  } finally { node.removeAttribute('aria-busy'); }
});
function draw(note) {
  $('#mem-note').textContent = note;
  $('#mscl').hidden = node.hidden = !memory;
  $('#mem-plain').textContent = (memory ?? []).map(one => one.text).join('');
  node.replaceChildren(...(memory ?? []).map(one => el('i', {}, flat(one.text) || '·')));
  if (memory) point(position); else { $('#malts').replaceChildren(); $('#mfacts').replaceChildren(); $('#mh').textContent = 'Expected there'; }
}
function point(k) {
  if (!memory) return;
  position = clamp(k, 0, memory.length - 1);
  const one = memory[position];
  $$('i', node).forEach((token, j) => {
    const style = [j < position && 'm' + bin(one.relative[j], MEMORY), j === position && 'cur'].filter(Boolean).join(' ');
    if (token.className !== style) token.className = style;
  });
  $('#mh').textContent = `Expected at ${quoted(one.text)}`;
  bars($('#malts'), one.alternatives.map(({ text, probability }) => ({ label: text, probability, isActual: text === one.text })));
  const k0 = one.relative.indexOf(Math.max(...one.relative, 0));
  const most = k0 < 0 || !position ? 'nothing before it' : `${quoted(memory[k0].text)}, ${plural(position - k0, unit())} back`;
  $('#mfacts').replaceChildren(...[['probability', percent(one.probability)], ['depends most on', most]]
    .map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value))));
  node.setAttribute('aria-valuemax', memory.length);
  node.setAttribute('aria-valuenow', position + 1);
  node.setAttribute('aria-valuetext', `${spoken(one.text)}, ${percent(one.probability)}: depends most on ${most}`);
}
const under = event => $$('i', node).indexOf(event.target.closest?.('i'));
node.addEventListener('pointermove', event => {
  const k = under(event);
  if (event.pointerType !== 'touch' && kept === null && k >= 0 && k !== position) point(k);
});
node.addEventListener('click', event => {
  const k = under(event);
  if (k < 0) return;
  kept = kept === k ? null : k;
  point(k);
});
node.addEventListener('keydown', event => {
  if (!memory || isShortcut(event)) return;
  const page = Math.max(1, Math.round(memory.length / 10)), right = node.matches(':dir(rtl)') ? -1 : 1;
  const target = { ArrowLeft: position - right, ArrowDown: position - 1, ArrowRight: position + right, ArrowUp: position + 1, PageUp: position - page,
    PageDown: position + page, Home: 0, End: memory.length - 1 }[event.key];
  if (event.key === 'Escape') kept = null;
  if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); kept = kept === null ? position : null; }
  if (target === undefined) return;
  event.preventDefault();
  kept = null;
  point(target);
});
$('#msent').addEventListener('input', event => {
  S.ms = event.target.value;
  position = 0;
  kept = null;
  save();
  measure();
});
scale($('#scale-m'), 'm', ['0', '.05', '.1', '.2', '.35', '.5', '.7', '.9']);

function example() {
  const lines = run().example.split('\n').map(line => line.trim()).filter(Boolean);
  return beginning(lines.sort((a, b) => b.length - a.length)[0] ?? '', 70);
}
export function begin() { $('#msent').value = S.ms ?? example(); }
export const leave = () => measure.cancel();
export function show() {
  if (S.ms === null) $('#msent').value = example();
  measure();
}
