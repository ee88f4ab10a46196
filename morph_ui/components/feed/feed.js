watch('value', () => {
  const v = props.value && JSON.parse(props.value);
  if (!v) return;
  const tab = [...document.querySelectorAll('[role=tab]')].find(b => b.textContent.trim().toLowerCase() === v.tab);
  if (tab && tab.getAttribute('aria-selected') !== 'true') tab.click();
  const put = tries => {
    const place = document.querySelector(`#${v.tab}-canvas [data-ready], #${v.tab}-canvas[data-ready]`);
    if (place) place.dispatchEvent(new CustomEvent('chrysalis-open', { detail: v.layers }));
    else if (tries) setTimeout(() => put(tries - 1), 100);
  };
  put(50);
});
