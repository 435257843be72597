// Writes the documentation of the API from its OpenAPI description.

import "./theme.js";

const server = new URL("./", location.href).href;
const api = await (await fetch("openapi.json")).json();

/** An element with text or other elements as children. */
function make(tag, className, ...children) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...children);
  return element;
}

const nameOf = (schema) => schema.$ref.split("/").pop();

/** One readable line for a schema. */
function typeOf(schema) {
  if (!schema) return "";
  if (schema.$ref) {
    const link = make("a", "", nameOf(schema));
    link.href = `#${nameOf(schema)}`;
    return link;
  }
  if (schema.anyOf) return join(schema.anyOf.filter((one) => one.type !== "null").map(typeOf), " or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.prefixItems) return join(["(", ...schema.prefixItems.flatMap((one, i) => [i ? ", " : "", typeOf(one)]), ")"], "");
  if (schema.type === "array") return join(["list of ", typeOf(schema.items)], "");
  return schema.format === "binary" ? "the file's bytes" : schema.type ?? "anything";
}

function join(parts, between) {
  const span = document.createElement("span");
  span.append(...parts.flatMap((part, i) => (i ? [between, part] : [part])));
  return span;
}

function table(rows) {
  return make("table", "", ...rows.map((cells) => make("tr", "", ...cells.map((cell) => make("td", "", cell)))));
}

function operation(path, method, { summary, description, requestBody, responses }) {
  const section = make("section", "operation");
  section.append(make("h2", "", make("b", method, method.toUpperCase()), make("code", "", path)), make("p", "", summary, "."));
  if (description) section.append(make("p", "note", description));
  for (const [type, { schema }] of Object.entries(requestBody?.content ?? {})) {
    section.append(make("p", "", "Send ", make("code", "", type), ": ", typeOf(schema)));
    if (requestBody.description) section.append(make("p", "note", requestBody.description));
  }
  const rows = Object.entries(responses).map(([status, { description: meaning, content }]) => {
    const [form] = Object.values(content ?? {});
    return [make("code", "", status), meaning, status < 300 ? (form?.schema?.title ?? typeOf(form?.schema)) : ""];
  });
  section.append(table(rows));
  return section;
}

function schemaSection(name, { description, properties, required = [] }) {
  const section = make("section", "operation");
  section.id = name;
  const rows = Object.entries(properties ?? {}).map(([field, schema]) => {
    const optional = schema.default !== undefined && schema.default !== null ? `default ${JSON.stringify(schema.default)}` : "optional";
    const facts = join([typeOf(schema), required.includes(field) ? "" : make("span", "note", `, ${optional}`)], "");
    return [make("code", "", field), facts, schema.description ?? ""];
  });
  section.append(make("h3", "", name), make("p", "note", description ?? ""), table(rows));
  return section;
}

document.getElementById("version").textContent = api.info.version;
document.getElementById("example").textContent = [
  `curl --data-binary @photo.jpg ${server}api/images`,
  `curl --json '{"points": [[220, 140]]}' ${server}api/images/ID/masks`,
].join("\n");
for (const [path, methods] of Object.entries(api.paths)) {
  for (const [method, described] of Object.entries(methods)) {
    document.getElementById("operations").append(operation(path, method, described));
  }
}
for (const [name, schema] of Object.entries(api.components.schemas)) {
  document.getElementById("schemas").append(schemaSection(name, schema));
}
