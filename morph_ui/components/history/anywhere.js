// Every picture of the page goes everywhere: dragged, or by a menu, into every slot that takes one, and out under a name.
const q = s => element.querySelector(s), all = s => [...element.querySelectorAll(s)];
const SLOTS = [['From', 'interpolate', '#interpolate-a'], ['To', 'interpolate', '#interpolate-b'], ['And on to …', 'interpolate', '#interpolate-more .keys'],
  ['Morph', 'morph', '#morph-timeline .keys'], ['Draw', 'draw', '#draw-canvas [data-ready]'], ['Edit', 'edit', '#edit-canvas [data-ready]']];
const ENDINGS = { 'image/png': 'png', 'image/jpeg': 'jpg', 'image/webp': 'webp', 'image/gif': 'gif' };
const called = src => { try { const at = new URL(src, location.href); return /^https?:/.test(at.protocol) ? decodeURIComponent(at.pathname.split('/').pop()) : ''; } catch { return ''; } };
const nameOf = img => img.dataset.name || called(img.dataset.full || img.src) || 'chrysalis-picture';
const ended = (name, type) => /\.(png|jpe?g|webp|gif)$/i.test(name) ? name : `${name}.${ENDINGS[type] || 'png'}`;
async function fileOf({ src, name, blob }) {
  const got = blob || await (await fetch(src)).blob();
  return new File([got], ended(name || called(src) || 'chrysalis-picture', got.type), { type: got.type });
}
async function until(find) {
  for (let tries = 0; tries < 80; tries++) {
    const found = find();
    if (found) return found;
    await new Promise(done => setTimeout(done, 100));
  }
  throw new Error('the studio does not answer');
}
function open(tab) {
  const b = [...document.querySelectorAll('[role=tab]')].find(b => b.textContent.trim().toLowerCase() === tab);
  if (b && b.getAttribute('aria-selected') !== 'true') b.click();
}
// As if it had been dropped there: whatever a slot does with a drop, it does with this.
async function send(picture, [, tab, slot]) {
  const data = new DataTransfer();
  data.items.add(await fileOf(picture));
  open(tab);
  const ready = tab === 'interpolate' ? '#interpolate-hands .trouble' : slot;
  await until(() => document.querySelector(ready)?.isConnected && document.querySelector(slot)?.getClientRects().length);
  await new Promise(done => setTimeout(done, 60));  // its script follows its picture
  document.querySelector(slot).dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));
}
function download(blob, name) {
  const href = URL.createObjectURL(blob), a = Object.assign(document.createElement('a'), { href, download: name });
  document.body.append(a); a.click(); a.remove();
  setTimeout(() => URL.revokeObjectURL(href), 60000);
}
async function save(picture) { const file = await fileOf(picture); download(file, file.name); }

// The menu: one for the page, over everything.
const list = q('.menu');
let asked = null, from = null;
function shut(back = true) {
  if (list.hidden) return;
  list.hidden = true; from?.setAttribute('aria-expanded', 'false');
  if (back) from?.focus();
}
function menu(button, picture) {
  if (!list.hidden && from === button) return shut();
  asked = picture; from = button; list.hidden = false;
  (button.closest('dialog') || element).append(list);  // above what is open
  button.setAttribute('aria-expanded', 'true');
  const b = button.getBoundingClientRect(), m = list.getBoundingClientRect(), up = b.bottom + m.height + 8 > innerHeight && b.top > m.height + 8;
  list.style.left = `${Math.max(8, Math.min(b.left, innerWidth - m.width - 8))}px`;
  list.style.top = `${up ? b.top - m.height - 4 : Math.max(8, Math.min(b.bottom + 4, innerHeight - m.height - 8))}px`;
  list.firstElementChild.focus();
}
for (const [label, act] of [...SLOTS.map(slot => [slot[0], () => send(asked, slot)]), ['Save', () => save(asked)]]) {
  const b = Object.assign(document.createElement('button'), { type: 'button', role: 'menuitem', textContent: label, tabIndex: -1 });
  b.dataset.to = label;
  b.addEventListener('click', () => {
    const here = from?.closest('dialog');
    shut(label === 'Save');
    if (here && label !== 'Save') here.close();
    act().catch(e => say(`That could not be brought over: ${e.message || e}`));
  });
  list.append(b);
}
list.addEventListener('keydown', e => {
  const items = [...list.children], at = items.indexOf(document.activeElement), by = { ArrowDown: 1, ArrowUp: -1 }[e.key];
  if (by) { e.preventDefault(); items[(at + by + items.length) % items.length].focus(); }
  if (e.key === 'Home' || e.key === 'End') { e.preventDefault(); items.at(e.key === 'Home' ? 0 : -1).focus(); }
  if (e.key === 'Escape' || e.key === 'Tab') { e.preventDefault(); e.stopPropagation(); shut(); }
});
document.addEventListener('pointerdown', e => { if (!list.contains(e.target) && !from?.contains(e.target)) shut(false); }, true);
addEventListener('scroll', () => shut(false), { passive: true }); addEventListener('resize', () => shut(false));

// A drag carries what `incoming.js` reads, and a name for whatever takes it outside of the browser.
document.addEventListener('dragstart', e => {
  const img = e.target.closest?.('img') || e.target.querySelector?.('img');
  if (!img?.src || !e.dataTransfer) return;
  const src = new URL(img.dataset.full || img.src, location.href).href, name = ended(nameOf(img), 'image/png');
  e.dataTransfer.effectAllowed = 'copyMove';
  e.dataTransfer.setData('application/x-chrysalis', JSON.stringify({ src, name }));
  e.dataTransfer.setData('text/uri-list', src);
  if (!src.startsWith('data:')) e.dataTransfer.setData('DownloadURL', `image/${/\.(\w+)$/.exec(name)[1].replace('jpg', 'jpeg')}:${name}:${src}`);
});
window.chrysalis = { ...window.chrysalis, menu, send, save, SLOTS };
