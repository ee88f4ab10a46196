function swatch(c, title) {
  const b = button('', title, '', () => colour(c));
  b.dataset.c = c; b.style.setProperty('--c', c);
  return b;
}
q('.colours .swatches').append(...FLOWERS.map(f => Object.assign(swatch(...f), { role: 'radio' })));
// Of a group of radios one is reached by Tab, the others by arrows.
for (const group of all('[role=radiogroup]')) group.addEventListener('keydown', e => {
  const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key], radios = [...group.children];
  if (!by) return;
  const to = radios[(radios.indexOf(e.target) + by + radios.length) % radios.length];
  e.preventDefault(); to.click(); to.focus();
});
function check(group, is) {
  const radios = [...group.children], on = radios.find(is);
  for (const b of radios) { b.setAttribute('aria-checked', b === on); b.tabIndex = b === (on || radios[0]) ? 0 : -1; }
}
// What opens over the page closes by a press elsewhere, and by Escape.
document.addEventListener('pointerdown', e => { for (const d of all('details[open]')) if (!d.contains(e.target)) d.open = false; });
element.addEventListener('keydown', e => { const d = e.key === 'Escape' && e.target.closest('details[open]'); if (d) { e.stopPropagation(); d.open = false; d.firstElementChild.focus(); } });

// ---- the list of layers, the topmost first
const EYE = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M2.5 12C6 5.5 18 5.5 21.5 12 18 18.5 6 18.5 2.5 12z"/><circle cx="12" cy="12" r="2.8"/></svg>';
const made = (tag, className, ...inside) => { const e = Object.assign(document.createElement(tag), { className }); e.append(...inside); return e; };
function range(title, low, value, input, change) {
  const r = Object.assign(document.createElement('input'), { type: 'range', min: low, max: 1, step: .01, title, ariaLabel: title });
  r.value = value;
  r.addEventListener('input', () => { input(+r.value); paint(); }); r.addEventListener('change', change);
  return r;
}
function row(n, label, before, ...inside) {
  const summary = made('summary', 'icon'), e = made('div', `layer ${n}`, ...before, made('details', 'pop more', summary, made('div', 'panel', ...inside)));
  summary.innerHTML = q('.for-smoothing svg').outerHTML; summary.title = summary.ariaLabel = `More of ${label}`;
  e.dataset.layer = n; q('.layers').append(e);
  return e;
}
const shut = act => e => { e.target.closest('details').open = false; if (!stroke) act(); };
for (const n of ['mask', 'sketch', 'strokes'].filter(n => layers[n])) {
  const layer = layers[n];
  const eye = button('icon eye', `Show ${LABEL[n]}${n === 'mask' ? ' (X)' : ''}`, EYE, () => { layer.visible = !layer.visible; refresh(); paint(); tell(); });
  const name = button('name', `Draw on ${LABEL[n]}`, LABEL[n], () => { edgeDone(); active = n; left = null; tool === 'select' && n !== 'mask' ? choose('brush') : refresh(); paint(); });
  const clear = button('clear', `Clear ${LABEL[n]}`, 'Clear', shut(() => { if (edit(layer, 0, 0, W, H, g => g.clearRect(0, 0, W, H))) { layer.inked = false; refresh(); paint(); tell(); } }));
  // A mask says how much may change by its own alpha: no opacity of the whole.
  if (n !== 'mask') layer.slider = range(`Opacity of ${LABEL[n]}`, 0, 1, v => { layer.opacity = v; soon(); }, tell);
  layer.row = row(n, LABEL[n], [eye, name], ...(layer.slider ? [made('label', '', 'Opacity', layer.slider)] : []), clear);
}
const coarse = range('Fine to coarse', 0, .4, () => {}, () => {}), kind = made('select', 'kind');
for (const [value, text] of [['xdog', 'own lines'], ['lineart', 'lineart'], ['hed', 'HED'], ['scribble', 'scribble']]) kind.append(new Option(text, value));
coarse.classList.add('coarse'); kind.title = kind.ariaLabel = 'How its lines are found';
const fromphoto = button('', 'Draw lines and colours from the photograph', 'Lines and colours from it', shut(fromPhoto));
fromphoto.dataset.act = 'fromphoto';
const photoRow = row('photo', 'Photograph', [Object.assign(button('name', 'Photograph', 'Photograph'), { disabled: true })],
  made('label', '', 'Shown', range('How strongly the photograph is shown', .05, 1, v => { dim = v; }, () => {})), kind, made('label', '', 'Coarse', coarse), fromphoto,
  button('clear', 'Remove the photograph', 'Remove', shut(() => whole(() => { photo = null; }))));

function refresh() {
  if (over) circle(last);
  const layer = layers[active], draws = tool === 'brush' || tool === 'eraser', mask = active === 'mask', chooses = tool === 'select' || tool === 'lasso';
  for (const b of all('[data-tool]')) b.setAttribute('aria-pressed', b.dataset.tool === tool);
  for (const l of Object.values(layers)) {
    l.row.classList.toggle('active', l === layer); l.row.querySelector('.name').setAttribute('aria-pressed', l === layer);
    l.row.querySelector('.eye').setAttribute('aria-pressed', l.visible);
    if (l.slider) l.slider.value = l.opacity;
  }
  q('.size').value = layer.size; q('.size').nextElementSibling.textContent = layer.size;
  q('.opacity').value = layer.ink; q('.opacity').nextElementSibling.textContent = `${Math.round(layer.ink * 100)}%`;
  q('.for-opacity span').textContent = mask ? 'Strength' : 'Opacity';
  q('.tolerance').nextElementSibling.textContent = q('.tolerance').value;
  q('.for-size').hidden = q('.for-smoothing').hidden = !draws;
  q('.for-opacity').hidden = tool === 'pick' || tool === 'hand'; q('.for-tolerance').hidden = tool !== 'fill';
  q('.colours').hidden = mask || tool === 'eraser';
  q('[data-tool=select]').hidden = !layers.mask;
  q('.for-mask').hidden = !mask; q('.modes').hidden = !mask || !chooses;
  q('.reach').hidden = tool !== 'select' || !mask;
  q('[data-act=less]').disabled = !choosing() || !chosen.at; q('[data-act=more]').disabled = !choosing() || chosen.at === chosen.list.length - 1;
  if (!mask) q('.colour').value = layer.colour;
  const row = q('.recent');
  if (row.dataset.of !== recent.join()) { row.dataset.of = recent.join(); row.replaceChildren(...recent.map(c => swatch(c, c))); }
  check(q('.colours .swatches'), b => b.dataset.c === layer.colour); check(q('.modes'), b => b.dataset.mode === mode);
  for (const b of row.children) b.setAttribute('aria-pressed', b.dataset.c === layer.colour);
  row.hidden = !recent.length;
  q('[data-act=undo]').disabled = !past.length; q('[data-act=redo]').disabled = !future.length;
  q('[data-act=live]').hidden = !props.live; q('[data-act=live]').setAttribute('aria-pressed', live);
  photoRow.hidden = !photo; fromphoto.disabled = !photo || asking;
  const ratio = W / H, fits = [...q('.shape').options].find(o => +o.value && Math.abs(+o.value / ratio - 1) < .01);
  q('.shape').value = fits ? fits.value : '';
  q('.hint').hidden = !!photo || !!stroke || names.some(n => !empty(layers[n]));
}

