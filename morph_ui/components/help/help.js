// Keys of the whole page, and the list of all of them. Canvases tell theirs to window.chrysalisKeys: [{ where, keys }, …].
const MAC = /Mac|iP(hone|ad)/.test(navigator.platform), box = element.querySelector('dialog'), all = element.querySelector('.all');
const ARROWS = '← ↑ → ↓', KEYS = [
  { where: 'Everywhere', keys: [['Ctrl+Enter', 'make it'], ['Esc', 'stop, when nothing else is open; what is finished stays'], ['?', 'this list']] },
  { where: 'The film', keys: [['Space', 'play, pause'], ['← →', 'a frame back, a frame on'], ['Home End', 'the first, the last frame']] },
  { where: 'Pictures in a row', keys: [['← →', 'move the picture that has the focus'], ['Del', 'take it away']] },
  { where: 'Points', keys: [[ARROWS, 'move a point; with Shift in small steps'], ['Del', 'remove its pair'], ['Ctrl+Z', 'undo'], ['Esc', 'close, or take back a single point']] },
  { where: 'Skeletons', keys: [[ARROWS, 'move a joint; with Shift in small steps'], ['Tab', 'the next joint'], ['Del', 'remove it'], ['Ctrl+Z', 'undo']] },
];
const TYPED = 'textarea, select, [contenteditable], input:not([type=range]):not([type=checkbox]):not([type=radio]):not([type=button]):not([type=file]):not([type=color])';
const make = (name, text = '') => Object.assign(document.createElement(name), { textContent: text });
const seen = node => !!node?.getClientRects().length;
const mine = (part, s) => [...document.querySelectorAll(s)].find(node => seen(node) && (part === '*' || node.closest(part)));

function list() {
  const told = [...KEYS, ...(window.chrysalisKeys || [])], merged = new Map();
  for (const { where, keys } of told) merged.set(where, [...(merged.get(where) || []), ...keys]);
  all.replaceChildren(...[...merged].map(([where, keys]) => {
    const part = make('section'), rows = make('dl');
    const unlike = keys.filter(([key, what], i) => keys.findIndex(other => other[0] === key && other[1] === what) === i);
    for (const [key, what] of unlike) {
      const row = make('div'), term = make('dt');
      term.append(...String(key).split(/(?<=\S) (?=\S)/).map(one => make('kbd', MAC ? one.replace('Ctrl', '⌘') : one)));
      row.append(term, make('dd', what)); rows.append(row);
    }
    part.append(make('h3', where), rows);
    return part;
  }));
}
let from = null;
function open() {
  if (box.open) return box.close();
  from = document.activeElement; list(); box.showModal(); element.querySelector('.close').focus();
}
element.querySelector('.open').addEventListener('click', open);
element.querySelector('.close').addEventListener('click', () => box.close());
box.addEventListener('click', e => { if (e.target === box) box.close(); });  // beside it
box.addEventListener('close', () => { if (from?.isConnected) from.focus({ preventScroll: true }); from = null; });

// ---- the film that is seen: keys that nothing else has taken
function film(e, free) {
  const deck = mine('*', '.deck:has(.scrub)'), scrub = deck?.querySelector('.scrub');
  if (!scrub || !deck.parentNode.querySelector('.stage.has') || !(free || e.target.closest('.stage, .strip'))) return;
  const to = { ArrowLeft: +scrub.value - 1, ArrowRight: +scrub.value + 1, Home: 0, End: +scrub.max }[e.key];
  if (e.key === ' ' && free) deck.querySelector('.play').click();
  else if (to === undefined || (!free && e.key !== 'ArrowLeft' && e.key !== 'ArrowRight')) return;
  else {
    scrub.value = to;  // the browser keeps it within its ends
    for (const kind of ['input', 'change']) scrub.dispatchEvent(new Event(kind, { bubbles: true }));
    if (!free) deck.parentNode.querySelector('.strip').children[scrub.value]?.focus({ preventScroll: true });
  }
  e.preventDefault();
}
window.addEventListener('keydown', e => {  // after everybody else
  if (e.defaultPrevented || e.isComposing || (document.querySelector('dialog[open]') && !box.open)) return;
  const typing = e.target.closest?.(TYPED), free = e.target === document.body || e.target.closest?.('.stage');
  if (e.key === '?' && !typing && !e.ctrlKey && !e.metaKey) { e.preventDefault(); return open(); }
  if (box.open) return;
  if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) {
    const button = mine('*', 'button[id$="-make"]');
    if (!button || e.repeat) return;
    e.preventDefault();
    const at = document.activeElement;
    at?.blur(); at?.focus({ preventScroll: true });  // what was typed counts
    return button.click();
  }
  if (e.ctrlKey || e.metaKey || e.altKey || e.shiftKey || typing) return;
  const stop = mine('.act', 'button[id$="-stop"]');
  if (e.key === 'Escape' && stop && (free || e.target.closest('.act'))) { e.preventDefault(); return stop.click(); }
  film(e, free);
});
