// The viewer: one domain's last hour and next hours, rain at a point, and how good the forecasts have been.

const PAST_FRAMES = 7;
const POLL_MS = 15_000;
const STEP_MS = 350;
const PAUSE_AT_END_MS = 1_200;

const $ = (id) => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");

const state = {
  domain: null, // answer of /v1/domains/{d}
  forecast: null,
  frames: [], // {time, lead (null: observed), url, image}
  shown: 0,
  point: null, // {lat, lon}
  playing: null,
  version: "", // what the frames were made for
};

class ApiError extends Error {
  constructor(problem) {
    super(problem.detail || problem.title || "The service does not answer.");
    this.type = problem.type;
    this.status = problem.status;
  }
}

async function ask(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" } });
  const answer = await response.json().catch(() => ({ title: `The service answered ${response.status}.` }));
  if (!response.ok) throw new ApiError({ status: response.status, ...answer });
  return answer;
}

const url = (...parts) => ["v1/domains", ...parts.map(encodeURIComponent)].join("/");

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// Words for times and numbers.

const clock = (time) => time.toISOString().slice(11, 16);
const day = (time) => time.toISOString().slice(0, 10);

// The reader's own time, where it is not UTC.
function local(time) {
  if (time.getTimezoneOffset() === 0) return "";
  return ` · ${time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false })} here`;
}

function ago(seconds) {
  const minutes = Math.round(seconds / 60);
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  if (minutes < 120) return `${minutes} min`;
  return minutes < 48 * 60 ? `${Math.round(minutes / 60)} h` : `${Math.round(minutes / 1440)} days`;
}

function rain(rate) {
  if (rate === null) return "not covered";
  if (rate === 0) return "0";
  if (rate < 0.1) return "< 0.1";
  return rate < 10 ? rate.toFixed(1) : String(Math.round(rate));
}

const score = (value) => (value === null ? "–" : value.toFixed(2));

// The frames of the slider.

async function showDomain(name) {
  stop();
  state.domain = await ask(url(name));
  state.version = "";
  state.frames = [];
  state.point = null;
  $("marker").hidden = true;
  $("point").replaceChildren(element("p", { className: "hint", textContent: "Click the map, or type coordinates." }));
  const thresholds = state.domain.thresholds_dbz;
  $("threshold").replaceChildren(...thresholds.map((t) => element("option", { value: t, textContent: `${t} dBZ` })));
  await refresh();
}

async function refresh() {
  const name = state.domain.name;
  const [observed, forecast] = await Promise.all([
    ask(`${url(name, "observations")}?limit=${PAST_FRAMES}`),
    ask(url(name, "forecasts", "latest")).catch((error) => {
      if (error.status !== 404) throw error;
      return null;
    }),
  ]);
  if (name !== state.domain.name) return; // another domain was chosen meanwhile
  state.forecast = forecast;
  tellStatus();
  const theme = dark.matches ? "dark" : "light";
  const version = [name, theme, observed.frames[0]?.time, forecast?.issue_time, forecast?.model].join();
  if (version !== state.version) {
    const first = state.version === "";
    state.version = version;
    layFrames(observed.frames, forecast, theme, first);
    await Promise.all([showSkill(), state.point && showPoint()]);
  }
}

function layFrames(observed, forecast, theme, first) {
  const name = state.domain.name;
  const before = state.frames[state.shown]?.time.getTime();
  const past = observed
    .map((frame) => ({
      time: new Date(frame.time),
      lead: null,
      url: `${url(name, "observations", frame.time)}/map.png?theme=${theme}`,
    }))
    .reverse();
  const issued = forecast && new Date(forecast.issue_time).getTime();
  const next = (forecast?.leads ?? []).map((lead) => ({
    time: new Date(issued + lead.lead_minutes * 60_000),
    lead: lead.lead_minutes,
    url: `${url(name, "forecasts", forecast.issue_time)}/map.png?lead=${lead.lead_minutes}&theme=${theme}`,
  }));
  const known = new Map(state.frames.map((frame) => [frame.url, frame.image]));
  state.frames = [...past, ...next].map((frame) => ({ ...frame, image: known.get(frame.url) ?? null }));

  const empty = state.frames.length === 0;
  $("figure").hidden = empty;
  notify(empty ? "No frame of this domain has come yet. This page looks again by itself." : "");
  if (empty) return;
  const slider = $("time");
  slider.max = state.frames.length - 1;
  const newest = Math.max(0, past.length - 1);
  const same = state.frames.findIndex((frame) => frame.time.getTime() === before);
  layTrack(past.length, next.length);
  show(first || same < 0 ? newest : same);
  preload(newest);
}

function layTrack(past, next) {
  $("past").style.flex = `${Math.max(past - 0.5, 0)} 1 0`;
  $("next").style.flex = `${Math.max(next - 0.5, 0)} 1 0`;
  $("past").hidden = past === 0;
  $("next").hidden = next === 0;
}

// Pictures are fetched one after the other, the present first, so that the slider never waits for the network.
async function preload(newest) {
  const version = state.version;
  const order = [...state.frames.keys()].sort((a, b) => Math.abs(a - newest) - Math.abs(b - newest));
  for (const index of order) {
    if (version !== state.version) return;
    const frame = state.frames[index];
    if (frame.image) continue;
    const image = new Image();
    image.src = frame.url;
    await image.decode().catch(() => undefined);
    frame.image = image;
  }
}

function show(index) {
  state.shown = index;
  const frame = state.frames[index];
  const picture = $("picture");
  if (!picture.src.endsWith(frame.url)) picture.src = frame.url;
  const kind = frame.lead === null ? "observed" : `forecast, +${frame.lead} min`;
  picture.alt = `Radar map of ${state.domain.title}, ${kind}, ${day(frame.time)} ${clock(frame.time)} UTC`;
  const slider = $("time");
  slider.value = index;
  slider.setAttribute("aria-valuetext", `${clock(frame.time)} UTC, ${kind}`);
  const when = frame.lead === null ? "observed" : `+${frame.lead} min`;
  $("clock").replaceChildren(
    element("b", { textContent: `${clock(frame.time)} UTC` }),
    element("small", { textContent: when + local(frame.time) }),
  );
}

function stop() {
  clearTimeout(state.playing);
  state.playing = null;
  $("play").setAttribute("aria-label", "Play");
  $("play").firstElementChild.textContent = "▶";
}

function play() {
  const tick = () => {
    const last = state.frames.length - 1;
    const next = state.shown >= last ? 0 : state.shown + 1;
    if (state.frames[next]?.image) show(next); // not before its picture is here
    state.playing = setTimeout(tick, next === last ? PAUSE_AT_END_MS : STEP_MS);
  };
  $("play").setAttribute("aria-label", "Pause");
  $("play").firstElementChild.textContent = "❚❚";
  tick();
}

// What the forecast says of itself.

function weights(byRule) {
  return Object.entries(byRule).map(([rule, weight]) => `${rule} ${weight.toFixed(2)}`).join(", ");
}

function tellStatus() {
  const { forecast, domain } = state;
  const facts = [];
  if (forecast) {
    const issued = new Date(forecast.issue_time);
    const age = (Date.now() - issued.getTime()) / 1000;
    const late = age > 3 * 60 * forecast.step_minutes;
    facts.push(["Issued", `${day(issued)} ${clock(issued)} UTC`]);
    facts.push(["Age", `${ago(age)}${late ? ", late: no newer data has come" : ""}`, late]);
    facts.push(["Method", `${forecast.model} (${forecast.model_version})`]);
    if (forecast.choice_reason) facts.push(["Choice", forecast.choice_reason]);
    if (forecast.base_weights) facts.push(["Mixed in", weights(forecast.base_weights)]);
    if (forecast.degraded_reason) facts.push(["Degraded", forecast.degraded_reason, true]);
    facts.push(["From", `${forecast.input_frames.length} frames, every ${forecast.step_minutes} min`]);
  } else {
    facts.push(["State", "No forecast yet: more frames are needed.", true]);
  }
  if (domain.credit) facts.push(["Data", domain.credit]);
  $("status").replaceChildren(
    ...facts.flatMap(([name, text, warn]) => [
      element("dt", { textContent: name }),
      element("dd", { textContent: text, className: warn ? "warn" : "" }),
    ]),
  );
}

function notify(text) {
  $("notice").textContent = text;
  $("notice").hidden = text === "";
}

// A click on the picture as a place: the lattice knows where on earth evenly spaced points of the grid lie.

function between(table, row, column) {
  const i = Math.min(Math.floor(row), table.length - 2);
  const j = Math.min(Math.floor(column), table[0].length - 2);
  const [v, u] = [row - i, column - j];
  const corners = [table[i][j], table[i][j + 1], table[i + 1][j], table[i + 1][j + 1]];
  if (corners.includes(null)) return null;
  return mixed(corners, v, u);
}

const mixed = (corners, v, u) =>
  (1 - v) * ((1 - u) * corners[0] + u * corners[1]) + v * ((1 - u) * corners[2] + u * corners[3]);

// Degrees from -180 to 180.
const halfTurn = (degrees) => ((((degrees + 180) % 360) + 360) % 360) - 180;

// Longitudes are angles: 179 and -179 lie two degrees apart, and around a pole all of them meet.
function placeBetween(latitude, longitude, row, column) {
  const lat = between(latitude, row, column);
  if (lat === null || between(longitude, row, column) === null) return null;
  const i = Math.min(Math.floor(row), latitude.length - 2);
  const j = Math.min(Math.floor(column), latitude[0].length - 2);
  const [v, u] = [row - i, column - j];
  const at = [[i, j], [i, j + 1], [i + 1, j], [i + 1, j + 1]];
  const lons = at.map(([r, c]) => longitude[i][j] + halfTurn(longitude[r][c] - longitude[i][j]));
  if (Math.max(...lons) - Math.min(...lons) < 90) return { lat, lon: halfTurn(mixed(lons, v, u)) };
  const radians = Math.PI / 180;
  const lats = at.map(([r, c]) => latitude[r][c] * radians);
  const x = mixed(lats.map((phi, k) => Math.cos(phi) * Math.cos(lons[k] * radians)), v, u);
  const y = mixed(lats.map((phi, k) => Math.cos(phi) * Math.sin(lons[k] * radians)), v, u);
  const z = mixed(lats.map(Math.sin), v, u);
  return { lat: Math.atan2(z, Math.hypot(x, y)) / radians, lon: Math.atan2(y, x) / radians };
}

function placeOf(event) {
  const box = state.domain.grid.map_box;
  const picture = $("picture").getBoundingClientRect();
  const x = ((event.clientX - picture.left) / picture.width - box.left) / box.width;
  const y = ((event.clientY - picture.top) / picture.height - box.top) / box.height;
  if (x < 0 || x > 1 || y < 0 || y > 1) return null;
  const { rows, columns, latitude, longitude } = state.domain.grid.lattice;
  return placeBetween(latitude, longitude, y * (rows - 1), x * (columns - 1));
}

function placeMarker(cell) {
  const { map_box: box, rows, columns } = state.domain.grid;
  $("marker").style.left = `${100 * (box.left + (box.width * (cell.column + 0.5)) / columns)}%`;
  $("marker").style.top = `${100 * (box.top + (box.height * (cell.row + 0.5)) / rows)}%`;
  $("marker").hidden = false;
}

async function showPoint() {
  const { lat, lon } = state.point;
  try {
    const answer = await ask(`${url(state.domain.name, "point")}?lat=${lat.toFixed(5)}&lon=${lon.toFixed(5)}`);
    placeMarker(answer.cell);
    $("point").replaceChildren(...describePoint(answer));
  } catch (error) {
    $("marker").hidden = true;
    $("point").replaceChildren(element("p", { className: "hint warn", textContent: error.message }));
  }
}

function describePoint(answer) {
  const { event, outlook, observed, series } = answer;
  const last = series.at(-1).lead_minutes;
  let verdict = `Dry for the next ${last} minutes`;
  let detail = "";
  if (outlook === "unknown") {
    verdict = "Not covered by radar";
    detail = "No rain is forecast where there is coverage, but part of the time nobody looks.";
  } else if (event) {
    const start = new Date(event.start);
    verdict = event.already_raining ? "Raining" : `Rain from ${clock(start)} UTC`;
    if (event.end) verdict += ` until ${clock(new Date(event.end))} UTC`;
    else verdict += event.open_end === "horizon" ? `, still at +${last} min` : ", then out of coverage";
    const peak = clock(new Date(event.peak.time));
    detail = `Peak ${rain(event.peak.rain_rate_mm_h)} mm/h at ${peak} UTC, ${event.total_mm.toFixed(1)} mm in all.`;
  }
  const seen = observed ? `Observed ${clock(new Date(observed.time))} UTC: ${stateWords(observed)}.` : "";
  const rows = series.map((step) =>
    element(
      "tr", {},
      element("td", { textContent: `${clock(new Date(step.valid_time))} UTC` }),
      element("td", { textContent: `+${step.lead_minutes}` }),
      element("td", { textContent: rain(step.rain_rate_mm_h) }),
      element("td", { textContent: step.reflectivity_dbz === null ? "–" : step.reflectivity_dbz.toFixed(0) }),
    ),
  );
  const head = ["Time", "min", "mm/h", "dBZ"].map((text) => element("th", { textContent: text, scope: "col" }));
  return [
    element("p", { className: "verdict", textContent: verdict }),
    element("p", { textContent: [detail, seen].filter(Boolean).join(" ") }),
    chart(observed, series),
    element(
      "details", { open: $("point").querySelector("details")?.open ?? false },
      element("summary", { textContent: "Numbers" }),
      element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows)),
    ),
  ];
}

function stateWords(step) {
  if (step.state === "not_covered") return "not covered";
  return step.state === "no_echo" ? "no echo" : `${rain(step.rain_rate_mm_h)} mm/h`;
}

// Bars of rain rate on a root scale, so that drizzle and a cloudburst both show; grey where nobody looks.
function chart(observed, series) {
  const [width, height, base] = [320, 120, 100];
  const steps = observed ? [{ ...observed, lead_minutes: 0 }, ...series] : series;
  const top = Math.max(4, ...steps.map((step) => step.rain_rate_mm_h ?? 0));
  const y = (rate) => base - (base - 8) * Math.sqrt(rate / top);
  const gap = (width - 24) / steps.length;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "series", role: "img" });
  svg.setAttribute("aria-label", "Rain rate over time; the numbers follow below");
  for (const rate of [0, top / 4, top]) {
    svg.append(draw("line", { x1: 24, x2: width, y1: y(rate), y2: y(rate), class: "axis" }));
    svg.append(draw("text", { x: 20, y: y(rate) + 3, "text-anchor": "end" }, rate ? rain(rate) : "0"));
  }
  steps.forEach((step, n) => {
    const x = 24 + n * gap;
    const covered = step.rain_rate_mm_h !== null;
    const upper = covered ? y(step.rain_rate_mm_h) : 8;
    const bar = { x: x + 1.5, y: upper, width: gap - 3, height: base - upper, rx: 1.5 };
    svg.append(draw("rect", { ...bar, class: covered ? "bar" : "none" }));
    if (step.lead_minutes === 0 && observed) {
      svg.append(draw("line", { x1: x + gap, x2: x + gap, y1: 4, y2: base, class: "now" }));
    }
    const label = step.lead_minutes === 0 ? "obs" : `+${step.lead_minutes}`;
    const every = Math.ceil(steps.length / 7);
    if (n % every === 0) svg.append(draw("text", { x: x + gap / 2, y: base + 13, "text-anchor": "middle" }, label));
  });
  svg.append(draw("text", { x: width, y: 6, "text-anchor": "end" }, "mm/h"));
  return svg;
}

function draw(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// How good forecasts of this method have been, beside persistence.

async function showSkill() {
  const threshold = $("threshold").value;
  const answer = await ask(`${url(state.domain.name, "verification")}?threshold=${threshold}`);
  const shown = scoreShown(answer.scores.filter((each) => each.page));
  const served = state.forecast?.model;
  const models = [...new Set(answer.rows.map((row) => row.model))];
  models.sort((a, b) => (b === served) - (a === served) || a.localeCompare(b));
  if (models.length === 0) {
    $("skill").replaceChildren(element("p", { className: "hint", textContent: "No forecast has met its truth yet." }));
    return;
  }
  const leads = [...new Set(answer.rows.map((row) => row.lead_minutes))].sort((a, b) => a - b);
  const head = ["Lead", ...models, "n"].map((text) => element("th", { textContent: text, scope: "col" }));
  const body = leads.map((lead) => {
    const rows = models.map((m) => answer.rows.find((row) => row.model === m && row.lead_minutes === lead));
    const values = rows.map((row) => row?.[shown.name] ?? null);
    const best = bestOf(shown, values);
    return element(
      "tr", {},
      element("td", { textContent: `+${lead} min` }),
      ...values.map((value, n) => {
        const won = models.length > 1 && value !== null && value === best;
        return element("td", { textContent: rows[n] ? score(value) : "", className: won ? "better" : "" });
      }),
      element("td", { textContent: Math.max(...rows.map((row) => row?.forecasts ?? 0)) }),
    );
  });
  const [from, to] = [new Date(answer.from), new Date(answer.to)];
  const period = `${day(from)} ${clock(from)} to ${day(to) === day(from) ? "" : `${day(to)} `}${clock(to)} UTC`;
  const name = shown.long_name[0].toUpperCase() + shown.long_name.slice(1);
  const told = `${name}, ${shown.perfect} is perfect, from sums pooled over n forecasts; truth of ${period}.`;
  $("skill").replaceChildren(
    element(
      "table", {},
      element("caption", { textContent: told }),
      element("thead", {}, element("tr", {}, ...head)),
      element("tbody", {}, ...body),
    ),
  );
}

// The score the reader chose among those the service has; its name and sense come from there too.
function scoreShown(offered) {
  const chosen = $("score").value;
  if ($("score").options.length === 0) {
    $("score").append(...offered.map((each) => element("option", { value: each.name, textContent: each.label })));
  }
  return offered.find((each) => each.name === chosen) ?? offered[0];
}

function bestOf(shown, values) {
  const known = values.filter((value) => value !== null);
  if (shown.better === "larger") return Math.max(...known);
  if (shown.better === "smaller") return Math.min(...known);
  const distance = (value) => Math.abs(value - shown.perfect);
  return known.sort((a, b) => distance(a) - distance(b))[0];
}

// What the reader does.

$("domain").addEventListener("change", () => {
  location.hash = new URLSearchParams({ domain: $("domain").value }).toString();
});
$("time").addEventListener("input", () => {
  stop();
  show(Number($("time").value));
});
$("play").addEventListener("click", () => (state.playing === null ? play() : stop()));
$("picture").addEventListener("click", (event) => {
  const place = placeOf(event);
  if (!place) return;
  state.point = place;
  $("lat").value = place.lat.toFixed(4);
  $("lon").value = place.lon.toFixed(4);
  showPoint();
});
$("place").addEventListener("submit", (event) => {
  event.preventDefault();
  const [lat, lon] = [$("lat"), $("lon")].map((input) => Number(input.value.trim().replace(",", ".")));
  if (!Number.isFinite(lat) || !Number.isFinite(lon)) {
    $("point").replaceChildren(element("p", { className: "hint warn", textContent: "Coordinates are numbers in degrees, such as 60.17 and 24.94." }));
    return;
  }
  state.point = { lat, lon };
  showPoint();
});
$("threshold").addEventListener("change", () => guarded(showSkill));
$("score").addEventListener("change", () => guarded(showSkill));
dark.addEventListener("change", () => guarded(refresh));
addEventListener("hashchange", () => guarded(chosen));

async function guarded(work) {
  try {
    await work();
  } catch (error) {
    notify(error instanceof ApiError ? error.message : "The service cannot be reached; trying again.");
  }
}

async function chosen() {
  const wanted = new URLSearchParams(location.hash.slice(1)).get("domain");
  const names = [...$("domain").options].map((option) => option.value);
  const name = names.includes(wanted) ? wanted : names[0];
  if (name === undefined) return notify("No domain is configured.");
  $("domain").value = name;
  if (name !== state.domain?.name) await showDomain(name);
}

async function start() {
  const { domains } = await ask("v1/domains");
  $("domain").replaceChildren(...domains.map((d) => element("option", { value: d.name, textContent: d.title })));
  await chosen();
}

async function poll() {
  if (!document.hidden) await guarded(state.domain ? refresh : start);
  setTimeout(poll, POLL_MS);
}

guarded(start);
setTimeout(poll, POLL_MS);
setInterval(() => state.forecast && tellStatus(), 5_000);
