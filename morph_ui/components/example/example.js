// The inputs stay empty below: what is dropped, chosen or drawn comes there, and the example goes.
const of = s => document.querySelector(`#${OWN.tab}-${s}`), laid = [];
let there = false;
function make(name, className, more = {}) { return Object.assign(document.createElement(name), { className, ...more }); }
function lay(on, node) { if (on) { on.append(node); on.classList.add('with-ghost'); laid.push(node); } }
// No <img>: a box with one in it is full.
function seen(src, label) {
  const p = make('i', 'seen', { role: 'img', ariaLabel: label });
  p.style.backgroundImage = `url("${src}")`;
  return p;
}
function ghost(on, src) {
  const g = make('div', 'ghost');
  g.append(seen(src, 'Example'));
  lay(on, g);
  return g;
}
function place(v) {
  there = true;
  for (const s in v.pair || {}) ghost(of(s), v.pair[s]).append(make('em', '', { textContent: 'Drop yours, or click' }));
  if (v.row) {
    const row = make('div', 'ghost row');
    for (const k of v.row) { const one = make('div', 'one'); one.append(seen(k.src, `Example: ${k.words}`), make('span', '', { textContent: k.words })); row.append(one); }
    row.append(make('em', '', { textContent: 'Drop yours, or click' }));
    lay(of('timeline')?.querySelector('.keys'), row);
  }
  if (v.flat) {
    const g = ghost(of('canvas')?.querySelector('.surface'), v.flat), use = make('button', '', { type: 'button', textContent: 'Put it on the canvas' });
    use.addEventListener('pointerdown', e => e.stopPropagation());
    use.addEventListener('click', e => { e.stopPropagation(); away(); trigger('use', {}); });
    g.append(make('em', '', { textContent: 'Draw, and it goes' }), use);
  }
  const stage = document.querySelector(`#${OWN.tab}-player .stage, #${OWN.tab}-viewer .stage`);
  const badge = make('div', 'example-badge', { textContent: 'Example' });
  const close = make('button', '', { type: 'button', textContent: '×', ariaLabel: 'Put the example away', title: 'Put the example away' });
  close.addEventListener('click', away);
  badge.append(close); lay(stage, badge);
  trigger('placed', {});
}
function away() {
  if (!there) return;
  const { run } = JSON.parse(props.value || '{}');
  there = false; props.value = '';
  for (const node of laid.splice(0)) { node.parentElement?.classList.remove('with-ghost'); node.remove(); }
  trigger('gone', { run });
}
// What is the visitor's own: pictures in the boxes and in the row, anything on the canvas.
const brought = () => !!of('a')?.querySelector('img') || !!of('b')?.querySelector('img')
  || !!of('timeline')?.querySelector('.key') || !!of('more')?.querySelector('.key') || !!of('canvas')?.querySelector('.hint')?.hidden;
function look() { if (there && brought()) away(); }
const inputs = ['a', 'b', 'timeline', 'more', 'canvas'].map(of).filter(Boolean);
const kept = () => ['interpolate', 'more', 'timeline'].some(name => {
  if (name === 'timeline' ? OWN.tab !== 'morph' : OWN.tab !== 'interpolate') return false;
  try { const old = JSON.parse(sessionStorage.getItem(`chrysalis-${name}`)); return !!old && !!(old.a || old.b || old.items?.length); } catch { return false; }
});
const eyes = new MutationObserver(look);
for (const box of inputs) eyes.observe(box, { subtree: true, childList: true, attributes: true, attributeFilter: ['hidden', 'src'] });
// Gone before the stroke is seen, before files are read, and before another example is asked for.
of('canvas')?.querySelector('.surface')?.addEventListener('pointerdown', e => e.target.closest('.ghost') || away(), true);
of('examples')?.addEventListener('click', away, true);
for (const box of inputs) box.addEventListener('drop', away, true);
// What has been brought while it was on its way stays alone.
watch('value', () => { if (!props.value || there) return; if (brought()) { there = true; away(); } else place(JSON.parse(props.value)); });
// The studio has to know the visit first.
const ask = () => { if (!kept() && !brought()) trigger('wanted', {}); };
if (window.chrysalisReady) setTimeout(ask, 0); else window.addEventListener('chrysalis-ready', ask, { once: true });
