watch('value', () => {
  const v = props.value && JSON.parse(props.value);
  if (!v) return;
  [...document.querySelectorAll('[role=tab]:not([aria-selected=true])')].find(b => b.textContent.trim().toLowerCase() === v.tab)?.click();
  const put = tries => {
    const place = document.querySelector(`#${v.tab}-canvas [data-ready], #${v.tab}-canvas[data-ready]`);
    if (place) place.dispatchEvent(new CustomEvent('chrysalis-open', { detail: v.layers }));
    else if (tries) setTimeout(() => put(tries - 1), 100);
  };
  put(50);
});
