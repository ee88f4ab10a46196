// What is kept: in IndexedDB, `entries` with a small picture each, `pictures` as they are. Nothing of it is sent anywhere.
const ROOM = window.chrysalisRoom || props.room, told = 'BroadcastChannel' in window ? new BroadcastChannel('chrysalis-history') : null;
const NONE = 'This window keeps no history, as private windows do not. Save what you want to keep.';
const settled = r => new Promise((ok, no) => { r.onsuccess = r.oncomplete = () => ok(r.result); r.onerror = r.onabort = () => no(r.error || new Error('it was refused')); });
async function base(how, work) {
  const opening = indexedDB.open('chrysalis-history', 1);
  opening.onupgradeneeded = () => { opening.result.createObjectStore('entries', { keyPath: 'id' }); opening.result.createObjectStore('pictures'); };
  const kept = await settled(opening);
  try {
    const done = kept.transaction(['entries', 'pictures'], how), got = work(done.objectStore('entries'), done.objectStore('pictures'));
    await settled(done);
    return got?.result;
  } finally { kept.close(); }
}
const span = id => IDBKeyRange.bound([id, 0], [id, Infinity]);
const store = {
  list: async () => (await base('readonly', e => e.getAll())).sort((a, b) => b.at - a.at),
  has: id => base('readonly', e => e.getKey(id)),
  pictures: id => base('readonly', (_, p) => p.getAll(span(id))),
  put: (entry, pictures) => base('readwrite', (e, p) => { e.put(entry); pictures.forEach((blob, i) => p.put(blob, [entry.id, i])); }),
  drop: ids => base('readwrite', (e, p) => { for (const id of ids) { e.delete(id); p.delete(span(id)); } }),
  clear: () => base('readwrite', (e, p) => { e.clear(); p.clear(); }),
};
// The oldest go when there is no room: of our own bound, or of the browser's.
async function room(more) {
  if (more > ROOM) throw new Error('larger than the whole history');
  const list = await store.list(), gone = [];
  let sum = more + list.reduce((n, e) => n + e.bytes, 0);
  while (sum > ROOM && list.length) { const old = list.pop(); sum -= old.bytes; gone.push(old.id); }
  if (gone.length) await store.drop(gone);
}
let refused = false;
async function keep(entry, pictures) {
  await room(entry.bytes);
  for (let tries = 0; ; tries++) {
    try { await store.put(entry, pictures); break; } catch (e) {
      const list = await store.list();
      if (e?.name !== 'QuotaExceededError' || !list.length || tries > 6) throw e;  // for anything else, room is of no use
      await store.drop(list.slice(-Math.ceil(list.length / 4)).map(e => e.id));
    }
  }
  refused = false;
}
async function small(blob, side = 240) {
  const map = await createImageBitmap(blob), k = Math.min(1, side / Math.max(map.width, map.height));
  const c = Object.assign(document.createElement('canvas'), { width: Math.max(1, Math.round(map.width * k)), height: Math.max(1, Math.round(map.height * k)) });
  c.getContext('2d').drawImage(map, 0, 0, c.width, c.height); map.close();
  return new Promise(ok => c.toBlob(ok, 'image/jpeg', .85));
}
// Of the pictures at each rest of a hand that is followed, the last stays, and whatever was sent, taken or looked at.
let lull = null;  // {id, of}: the last, which the next one of the same settings replaces
document.addEventListener('click', e => { if (e.target.closest?.('.take, .shelf, .deck .send, [data-act=new], [data-act=open]')) lull = null; }, true);
document.addEventListener('dragstart', () => { lull = null; }, true);
// A run that has ended: its pictures as the page has them, with the settings that make it again.
async function take({ tab, made, cells, film, ratio, before, rest }) {
  if (await store.has(made.id)) return false;
  const of = JSON.stringify([tab, made.settings]), old = rest && lull?.of === of ? lull.id : null;
  if (rest) lull = { id: made.id, of };
  const own = Object.keys(made.each).map(Number), shown = cells.filter(c => c.state === 'done' && c.src && (!own.length || own.includes(c.index)));
  const pictures = await Promise.all(shown.map(async c => (await fetch(c.src)).blob()));
  if (!pictures.length || pictures.some(b => !b.type.startsWith('image/'))) return false;
  const names = shown.map(c => called(c.src) || `chrysalis-${made.method}-seed${made.settings.seed}`), s = made.settings;
  const entry = { id: made.id, at: made.at * 1000, tab, method: made.method, settings: s, each: shown.map(c => made.each[c.index] || null), labels: shown.map(c => c.label || ''), names, ratio, seconds: made.seconds,
    film: own.length ? [] : film.map(([i, ms]) => [i, ms]).filter(([i]) => i < pictures.length), before: own.length ? before : '',
    bytes: pictures.reduce((n, b) => n + b.size, 0) + (own.length ? before?.length || 0 : 0), thumb: await small(pictures[own.length ? 0 : pictures.length >> 1]) };
  await keep(entry, pictures);
  if (old) await store.drop([old]);
  return true;
}
