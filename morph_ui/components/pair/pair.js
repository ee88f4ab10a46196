// Pictures for From and To: files that are dropped, pasted or chosen, the first on From and the next on To.
const line = element.querySelector('.trouble'), say = text => { line.textContent = text; };
const zone = s => document.querySelector(`#${OWN.tab}-${s}`), full = s => !!zone(s)?.querySelector('img'), seen = () => !!zone('a')?.offsetParent;
const side = t => ['a', 'b'].find(s => t?.closest?.(`#${OWN.tab}-${s}`)), NAMES = { a: 'From', b: 'To' };
let dragged = null, under = null, turn = 0, puts = 0;

async function take(files, on) {
  const mine = ++turn, several = files.length > 1, places = several ? ['a', 'b'] : [on], said = [];
  if (files.length > 2) window.dispatchEvent(new CustomEvent('chrysalis-more', { detail: { tab: OWN.tab, files: files.slice(2) } }));
  say('Opening …');
  const sent = {};
  await Promise.all(places.map(async (s, i) => {
    try { const { path, note } = await bring(files[i]); sent[s] = path; if (note) said.push(note); }
    catch (e) { said.push(`${NAMES[s]}: ${e.message}`); }
  }));
  if (mine === turn) say(said.join(' '));
  put(sent);
}
function put(sent) {
  if (!Object.keys(sent).length) return;
  props.value = JSON.stringify({ ...sent, n: ++puts }); trigger('put');
}
window.addEventListener('chrysalis-put', e => { if (e.detail.tab === OWN.tab) put(e.detail.put); });
function free() { return under || ['a', 'b'].find(s => !full(s)); }

document.addEventListener('pointerover', e => { under = side(e.target) || null; });
document.addEventListener('dragstart', e => { dragged = side(e.target) || null; }, true);
document.addEventListener('dragend', () => { dragged = null; }, true);
document.addEventListener('dragover', e => { if (side(e.target)) e.preventDefault(); }, true);
document.addEventListener('drop', async e => {
  const on = side(e.target), from = dragged;
  if (!on) return;
  e.preventDefault(); e.stopPropagation(); dragged = null;
  if (from) return from !== on && document.querySelector(`#${OWN.tab}-swap`).click();
  const files = await dropped(e.dataTransfer).catch(() => []);
  if (files.length) take(files, on); else say(NO_FILE);
}, true);
// The chooser's files as well: what browsers cannot show, and several at once.
document.addEventListener('change', e => {
  const on = e.target.type === 'file' && side(e.target), files = on ? [...e.target.files] : [];
  if (!files.length) return;
  e.stopPropagation(); e.target.value = ''; take(files, on);
}, true);
document.addEventListener('paste', e => {
  const files = pasted(e), typing = e.target.closest?.('input, textarea, [contenteditable]'), on = free();
  if (!files.length || !seen() || (typing && [...e.clipboardData.types].includes('text/plain'))) return;
  e.preventDefault(); e.stopPropagation();
  if (on || files.length > 1) take(files, on); else say('Both are there already: point at the one to replace, then paste again.');
}, true);
// Elsewhere than on this machine, browsers keep camera and clipboard to https: paste by Ctrl+V, which works. Several files may be chosen.
const prepare = () => {
  for (const s of ['a', 'b']) for (const input of zone(s)?.querySelectorAll('input[type=file]') || []) { input.multiple = true; input.accept = PICTURES; }
};
document.addEventListener('pointerdown', prepare, true); prepare();
// Nothing to change places while nothing of the visitor's is there.
const swap = document.querySelector(`#${OWN.tab}-swap`), swaps = () => { swap.disabled = !full('a') && !full('b'); };
for (const s of ['a', 'b']) if (zone(s)) new MutationObserver(swaps).observe(zone(s), { subtree: true, childList: true });
swaps();
// After the page was loaded again: what is still there. The studio may have been started anew, or a day may have passed.
async function back(old) {
  const sides = ['a', 'b'].filter(s => old[s]), sent = {}, gone = [];
  let silent = false;
  await Promise.all(sides.map(async s => {
    const got = await still(old[s]);
    if (got.error) gone.push(NAMES[s]); else if (!got.path) silent = true; else if (!full(s)) sent[s] = got.path;
  }));
  // Nothing is put, for then the other would no longer be noted.
  if (silent) return say('The studio does not answer. Load the page again when it does: your pictures are still noted.');
  if (gone.length) say(`The picture${gone.length > 1 ? 's' : ''} of ${gone.sort().join(' and ')} ${gone.length > 1 ? 'are' : 'is'} no longer kept here; drop ${gone.length > 1 ? 'them' : 'it'} again.`);
  if (gone.length) sessionStorage.removeItem(`chrysalis-${OWN.tab}`);  // what is there is noted again when it is shown
  put(sent);
}
try { const old = JSON.parse(sessionStorage.getItem(`chrysalis-${OWN.tab}`)); if (old && (old.a || old.b)) back(old); } catch { /* no storage here */ }
