// A click chooses; what is dragged is the whole picture, which is asked for when the pointer comes.
for (const b of element.querySelectorAll('button')) {
  const index = +b.dataset.index, pictures = [...b.querySelectorAll('img')];
  let asked = null;
  b.addEventListener('click', () => trigger('choose', { index }));
  const ask = () => { asked ??= server.whole({ index }).then(own => own.forEach(({ src, name }, i) => Object.assign(pictures[i].dataset, { full: src, name }))).catch(() => { asked = null; }); };
  b.addEventListener('pointerenter', ask); b.addEventListener('pointerdown', ask);
  b.addEventListener('dragstart', e => { if (!pictures[0].dataset.full) e.preventDefault(); });  // not the small one
}
