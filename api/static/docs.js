// The API's documentation, laid out from its own OpenAPI description, with a form to try each question.

const root = document.getElementById("docs");

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// The two marks the descriptions use: `code` and blank lines between paragraphs.
function prose(text = "") {
  return text.split(/\n\n+/).filter(Boolean).map((paragraph) => {
    const parts = paragraph.split("`").map((part, n) => (n % 2 ? element("code", { textContent: part }) : part));
    return element("p", {}, ...parts);
  });
}

function typeOf(schema = {}) {
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.anyOf) return schema.anyOf.map(typeOf).filter((type) => type !== "null").join(" | ");
  if (schema.const) return schema.const;
  if (schema.type === "array") return `${typeOf(schema.items)}, repeatable`;
  return schema.format ?? schema.type ?? "";
}

function exampleOf(parameter) {
  const schema = parameter.schema ?? {};
  const examples = parameter.examples ?? schema.examples ?? [];
  const first = Array.isArray(examples) ? examples[0] : Object.values(examples)[0]?.value;
  return parameter.required ? (first ?? "") : "";
}

function question(parameter) {
  const schema = parameter.schema ?? {};
  const input = element("input", { name: parameter.name, value: exampleOf(parameter), required: parameter.required });
  input.dataset.where = parameter.in;
  input.placeholder = schema.default ?? "";
  const about = [typeOf(schema), parameter.description].filter(Boolean).join(": ");
  return element("label", {}, element("code", { textContent: parameter.name }), input, element("small", { textContent: about }));
}

function address(path, form) {
  const query = new URLSearchParams();
  let filled = path.slice(1); // relative, so that the service may live under a prefix
  for (const input of form.querySelectorAll("input")) {
    if (input.dataset.where === "path") filled = filled.replace(`{${input.name}}`, encodeURIComponent(input.value));
    else if (input.value !== "") for (const value of input.value.split(/\s*,\s*/)) query.append(input.name, value);
  }
  return query.size ? `${filled}?${query}` : filled;
}

async function tryIt(path, form, answer) {
  const where = address(path, form);
  const response = await fetch(where);
  const type = response.headers.get("content-type") ?? "";
  const line = element("p", {}, element("code", { textContent: `${response.status} ` }), element("a", { href: where, textContent: where }));
  if (type.startsWith("image/")) {
    const image = element("img", { alt: "The answer", src: where });
    answer.replaceChildren(line, image);
  } else if (type.includes("json")) {
    answer.replaceChildren(line, element("pre", {}, element("code", { textContent: JSON.stringify(await response.json(), null, 2) })));
  } else if (type.startsWith("text/")) {
    answer.replaceChildren(line, element("pre", {}, element("code", { textContent: await response.text() })));
  } else {
    answer.replaceChildren(line, element("p", { className: "hint", textContent: `${type}, ${response.headers.get("content-length")} bytes` }));
  }
}

function operation(path, details, domain) {
  const answer = element("div", { className: "answer" });
  const form = element("form", {}, ...(details.parameters ?? []).map(question), element("button", { type: "submit", textContent: "Try it" }));
  const named = form.querySelector("input[name=domain]");
  if (named && domain) named.value = domain;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    tryIt(path, form, answer).catch(() => answer.replaceChildren(element("p", { className: "warn", textContent: "The service cannot be reached." })));
  });
  return element(
    "article", { className: "card" },
    element("h3", {}, element("code", { className: "path", textContent: `GET ${path}` })),
    element("p", {}, element("b", { textContent: details.summary })),
    ...prose(details.description),
    element("details", {}, element("summary", { textContent: "Parameters and a try" }), form, answer),
  );
}

async function start() {
  const [api, domains] = await Promise.all([
    fetch("openapi.json").then((r) => r.json()),
    fetch("v1/domains").then((r) => r.json()).catch(() => ({})),
  ]);
  const sections = new Map();
  for (const [path, operations] of Object.entries(api.paths)) {
    const tag = operations.get.tags[0];
    if (!sections.has(tag)) sections.set(tag, [element("h2", { textContent: tag })]);
    sections.get(tag).push(operation(path, operations.get, domains.domains?.[0]?.name));
  }
  root.replaceChildren(element("p", {}, element("b", { textContent: api.info.summary })), ...prose(api.info.description.replaceAll("*", "")), ...[...sections.values()].flat());
}

start().catch(() => root.replaceChildren(element("p", { className: "warn", textContent: "The description cannot be read." })));
