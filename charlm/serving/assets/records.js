/* The view Records: records that the model writes, twenty at a click, and those to keep. */
import { $, $$, el, plural, post, problem, say, shown, solved, isAbort } from './shared.js';
import { MAX_KEPT, S, filters, run, save } from './state.js';

const AT_A_CLICK = 20, MAX_SHOWN = 1000;
let written = [], clicks = 0, reason = null, waiting = null;

async function more() {
  if (waiting) return;
  const own = waiting = new AbortController();
  draw();
  try {
    const answer = await post('/page/records', { model: S.run, count: AT_A_CLICK, seed: S.set.s + clicks, ...filters() }, own.signal);
    written = [...answer.records, ...written].slice(0, MAX_SHOWN);
    reason = answer.reason;
    clicks++;
    solved(more);
    const news = reason ? '' : `, ${answer.records.filter(record => record.is_new).length} of them new`;
    say(plural(answer.records.length, 'record') + news);
  } catch (error) {
    if (!isAbort(error)) problem(error, more);
  } finally {
    if (waiting === own) waiting = null;
    draw();
  }
}
function draw() {
  const list = written.filter(record => !S.only || record.is_new);
  $('#recs').replaceChildren(...list.map(item));
  $('#more').disabled = !!waiting;
  $('#more').textContent = waiting ? 'Writing …' : written.length ? 'Twenty more' : 'Write twenty';
  $('#onlynew').setAttribute('aria-pressed', String(S.only));
  $('#onlynew').disabled = !!reason;
  $('#clear').disabled = !written.length;
  const hidden = written.length - list.length;
  $('#rnote').textContent = reason ? `Whether a record is new is not known: ${reason}.`
    : !written.length && !waiting ? 'No record yet.' : hidden ? `Hidden: ${plural(hidden, 'record')} of the training text.` : '';
  drawKept();
}
function item(record) {
  const isKept = S.kept.includes(record.text);
  const button = el('button', { class: 'keep', type: 'button', 'aria-pressed': String(isKept), 'aria-label': `Keep ${shown(record.text)}` }, isKept ? 'Kept' : 'Keep');
  button.addEventListener('click', () => keep(record.text));
  const nature = record.is_new === null ? '' : record.is_new ? 'new' : 'in training';
  return el('li', {}, el('span', { class: 'rt', dir: 'auto' }, shown(record.text) + (record.ended ? '' : ' …')),
    el('span', { class: 'v' }, (record.log_probability / Math.LN10).toFixed(2).replace('-', '−')),
    el('span', { class: 't' + (record.is_new ? ' new' : '') }, nature), button);
}
function keep(text) {
  S.kept = S.kept.includes(text) ? S.kept.filter(other => other !== text) : [...S.kept, text].slice(-MAX_KEPT);
  save();
  draw();
  $$('.keep').find(button => button.getAttribute('aria-label') === `Keep ${shown(text)}`)?.focus();
}
function drawKept() {
  $('#kept').replaceChildren(S.kept.length ? el('ol', {}, ...S.kept.map(text => {
    const remove = el('button', { class: 'x', type: 'button', 'aria-label': `Remove ${shown(text)}` }, 'Remove');
    remove.addEventListener('click', () => keep(text));
    return el('li', {}, el('span', { dir: 'auto' }, shown(text)), remove);
  })) : el('p', { class: 'empty' }, 'Nothing kept yet.'));
  $('#keptbar').hidden = !S.kept.length;
}
const asText = () => S.kept.join(run().separator ?? '\n') + '\n';
$('#more').addEventListener('click', more);
$('#onlynew').addEventListener('click', () => { S.only = !S.only; save(); draw(); });
$('#clear').addEventListener('click', () => { written = []; draw(); $('#more').focus(); });
$('#savekept').addEventListener('click', () => {
  const url = URL.createObjectURL(new Blob([asText()], { type: 'text/plain' }));
  el('a', { href: url, download: 'kept.txt' }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
});
$('#copykept').addEventListener('click', async () => {
  try {
    await navigator.clipboard.writeText(asText());
    $('#copykept').textContent = 'Copied';
    say(`Copied ${plural(S.kept.length, 'record')}`);
  } catch {
    problem(new Error('The browser does not let this page copy. Use Download.'));
  }
  setTimeout(() => { $('#copykept').textContent = 'Copy'; }, 1500);
});

let shownRun = null;
export function begin() { draw(); }
export const leave = () => {};
export function show() {
  if (shownRun !== S.run) {
    waiting?.abort();
    waiting = null;
    written = [];
    clicks = 0;
    reason = null;
    shownRun = S.run;
    if (!run().unavailable.records) more();
  }
  $('#rlead').textContent = `Records of the run ${run().name}, with the temperature and seed of the settings. Log-probabilities are base 10. New: not in the training text.`;
  draw();
}
