// Takes away a file that was made because it was asked for.
let last = '';
function take() {
  if (!props.value || props.value === last) return;
  last = props.value;
  const { href, name } = JSON.parse(last), a = Object.assign(document.createElement('a'), { href, download: name });
  document.body.append(a); a.click(); a.remove();
}
watch('value', take);
