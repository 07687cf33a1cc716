// Elements from descriptions. Texts stay texts: nothing here reads HTML, whatever a name holds.

/** Describe an element; `props` are attributes, besides `key` and `share` (a bar's part, 0 to 1). */
export function h(tag, props, ...children) {
  const wanted = children.flat(Infinity).filter((child) => child || child === 0);
  return { tag, props: props ?? {}, children: wanted };
}

/** Make the children of `parent` what is wanted, and change nothing that is so already. */
export function patch(parent, wanted) {
  const kept = new Map();
  for (const node of parent.childNodes) if (node.dharmaKey) kept.set(node.dharmaKey, node);
  wanted.forEach((each, at) => {
    const key = each.props?.key;
    const found = (key && kept.get(key)) || parent.childNodes[at];
    const node = reusable(found, each) ? found : make(each);
    if (node !== parent.childNodes[at]) parent.insertBefore(node, parent.childNodes[at] ?? null);
    update(node, each);
  });
  while (parent.childNodes.length > wanted.length) parent.lastChild.remove();
}

function reusable(node, wanted) {
  if (!node) return false;
  if (!wanted.tag) return node.nodeType === Node.TEXT_NODE;
  const same = node.nodeType === Node.ELEMENT_NODE && node.localName === wanted.tag;
  return same && node.dharmaKey === wanted.props.key;
}

function make(wanted) {
  if (!wanted.tag) return document.createTextNode(String(wanted));
  const node = document.createElement(wanted.tag);
  node.dharmaKey = wanted.props.key;
  return node;
}

function update(node, wanted) {
  if (!wanted.tag) {
    if (node.data !== String(wanted)) node.data = String(wanted);
    return;
  }
  const { key, share, ...attributes } = wanted.props;
  for (const { name } of [...node.attributes]) {
    if (name !== "style" && attributes[name] == null) node.removeAttribute(name);
  }
  for (const [name, value] of Object.entries(attributes)) {
    if (value != null && node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
  }
  if (share != null) node.style.setProperty("--share", share);
  patch(node, wanted.children);
}
