// The page of the app: it shows what the server keeps of this session, and asks for pictures. No other file, no library.
"use strict";

const $ = (id) => document.getElementById(id);
const NAMES = { original: "original", phase1: "Phase I", inversion: "inversion", edit: "edit" };
const KEYBOARD_MS = 350; // after the last key, so that ten presses are one step of the history
let about, state, session, against = "original";
let drawn = 0; // counts what was asked for, so that a late answer does not replace a newer one

// ------------------------------------------------------------------------------------------------ talking to the server

async function ask(path, { method = "GET", body, json } = {}) {
  const headers = { "X-Session": session || "" };
  if (json !== undefined) { body = JSON.stringify(json); headers["Content-Type"] = "application/json"; }
  let answer;
  try {
    answer = await fetch(path, { method, headers, body });
  } catch {
    throw new Error("the app does not answer: is it still running?");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  if (answer.status === 410) await begin();
  throw new Error(said.error || `the app answered ${answer.status}; see its terminal`);
}

const askJson = async (path, how) => (await ask(path, how)).json();

async function begin() {
  session = (await askJson("api/session", { method: "POST" })).session;
  state = null;
  $("work").hidden = true;
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

let begun = 0; // that is not finished; the page says so to screen readers, and to tests

function busy(more) {
  begun += more;
  document.body.setAttribute("aria-busy", begun > 0);
}

async function trying(work) {
  busy(1);
  try {
    await work();
  } catch (error) {
    say(error.message, true);
  }
  busy(-1);
}

// ---------------------------------------------------------------------------------------------------------------- photos

async function take(file, slot) {
  if (!file) return;
  if (file.size > about.max_upload_mb * 1e6) {
    say(`${file.name} has ${(file.size / 1e6).toFixed(1)} MB, more than ${about.max_upload_mb} MB: make it smaller`, true);
    return;
  }
  if (!session) await begin();
  const face = slot === "first" ? about.face : 1;
  const query = new URLSearchParams({ slot, name: file.name, align: $("align").checked ? "1" : "0", face });
  await inverted(file.name, () => askJson(`api/photo?${query}`, { method: "POST", body: file }), slot);
}

async function inverted(name, request, slot) {
  const since = Date.now();
  let isDone = false; // an answer on the queue may come later than the picture
  say(`${name}: ${$("align").checked ? "finding the face and " : ""}inverting …`);
  const timer = setInterval(async () => {
    const { inverting } = await askJson("api/queue").catch(() => ({ inverting: 0 }));
    const before = inverting > 1 ? `, ${inverting - 1} other${inverting > 2 ? "s" : ""} in the queue` : "";
    if (!isDone) say(`${name}: inverting, ${Math.round((Date.now() - since) / 1000)} s${before} …`);
  }, 1500);
  try {
    show(await request());
    clearInterval(timer);
    await refresh(slot === "first" ? about.views : ["edit"]);
    say(state.photos[slot].notes.join("; ") || `${name}: ready`, state.photos[slot].notes.length > 0);
  } finally {
    isDone = true;
    clearInterval(timer);
  }
}

// -------------------------------------------------------------------------------------------------------------- pictures

function put(image, blob) {
  if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
  return image.decode().catch(() => {});
}

async function refresh(views) {
  const number = ++drawn;
  const wanted = new Set([...views, against, "edit"]);
  for (const view of ["edit", ...about.views.filter((each) => each !== "edit" && wanted.has(each))]) {
    const large = view === "edit" || view === against;
    const blob = await (await ask(`api/picture?view=${view}&size=${large ? "screen" : "preview"}`)).blob();
    if (number !== drawn) return;
    if (view === "edit") await put($("edited"), blob);
    if (view === against) await put($("before"), blob);
    await put($(`view-${view}`), blob);
  }
  shape();
}

function shape() {
  const { naturalWidth: width, naturalHeight: height } = $("edited");
  if (width) $("stage").style.setProperty("--ratio", width / height);
}

function wipe() {
  const stage = $("stage").getBoundingClientRect(), part = Number($("wipe").value) / 100;
  $("before").style.clipPath = `inset(0 ${100 * (1 - part)}% 0 0)`;
  $("line").style.left = `${part * stage.width}px`;
  $("before-name").textContent = NAMES[against];
}

function drag(event) {
  const stage = $("stage").getBoundingClientRect();
  $("wipe").value = (100 * (event.clientX - stage.left)) / stage.width;
  wipe();
}

// -------------------------------------------------------------------------------------------------------------- settings

function settings() {
  const edits = {};
  for (const { name } of about.sliders) {
    const value = Number($(`slider-${name}`).value);
    if (value !== state.starts[name]) edits[name] = value;
  }
  return { edits, blend: Number($("blend").value), paste_back: $("paste").checked };
}

let moving = false, again = false, timer = 0;

async function preview() {
  if (moving) { again = true; return; }
  moving = true;
  await trying(async () => {
    do {
      again = false;
      const number = ++drawn;
      const blob = await (await ask("api/preview", { method: "POST", json: settings() })).blob();
      if (number === drawn) await put($("edited"), blob);
    } while (again);
  });
  moving = false;
}

function moved(slider) {
  slider.parentElement.querySelector("output").textContent = Number(slider.value).toFixed(slider.id === "blend" ? 2 : 1);
  forget();
  preview();
}

function commit(wait = KEYBOARD_MS) {
  forget();
  busy(1);
  timer = setTimeout(() => change(settings()), wait);
}

function forget() { // what was to be kept soon
  if (timer) busy(-1);
  clearTimeout(timer);
  timer = 0;
}

function change(what) {
  forget();
  return trying(async () => {
    const before = state.settings;
    show(await askJson("api/change", { method: "POST", json: what }));
    const all = before.blend !== state.settings.blend || before.paste_back !== state.settings.paste_back;
    await refresh(all ? about.views : []);
    say("");
  });
}

// ------------------------------------------------------------------------------------------------------------------ page

function show(given) {
  state = given;
  const first = state.photos.first, second = state.photos.second, now = state.settings;
  $("work").hidden = !first;
  if (!first) return;
  $("name").textContent = first.name;
  $("faces-row").hidden = first.faces < 2;
  $("faces").replaceChildren(...Array.from({ length: first.faces }, (_, i) => {
    const text = `${i + 1} of ${first.faces}${i === 0 ? ", the largest" : ""}`;
    return new Option(text, i + 1, false, i + 1 === first.face);
  }));
  for (const { name } of about.sliders) {
    const slider = $(`slider-${name}`), value = now.edits[name] ?? state.starts[name];
    slider.value = value;
    slider.parentElement.querySelector("output").textContent = value.toFixed(1);
    slider.parentElement.classList.toggle("moved", name in now.edits);
  }
  $("paste").checked = now.paste_back;
  $("paste").disabled = !first.can_paste;
  $("second-name").textContent = second ? second.name : "Choose a second photo";
  $("blend").disabled = !second;
  $("blend").value = now.blend;
  $("blend").nextElementSibling.textContent = now.blend.toFixed(2);
  $("undo").disabled = state.at === 0;
  $("redo").disabled = state.at === state.history.length - 1;
  $("command").textContent = state.command;
  $("history").replaceChildren(...state.history.map((text, at) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    if (at === state.at) button.setAttribute("aria-current", "step");
    button.onclick = () => change({ do: "go", at });
    item.append(button);
    return item;
  }));
  wipe();
}

function build() {
  $("about").textContent = `${about.domain}, ${about.px} px, ${about.method}`;
  $("minutes").textContent = about.session_minutes;
  $("align-row").hidden = !about.can_align;
  $("align").checked = about.align;
  for (const { name, least, most, sets } of about.sliders) {
    const row = document.createElement("div"), label = document.createElement("label");
    const slider = document.createElement("input"), value = document.createElement("output");
    row.className = "slider";
    slider.id = label.htmlFor = value.htmlFor = `slider-${name}`;
    label.textContent = name.replaceAll("_", " ");
    label.title = sets ? "sets a coordinate, in standard deviations" : "in standard deviations over photos";
    Object.assign(slider, { type: "range", min: least, max: most, step: about.step, value: 0 });
    value.textContent = "0.0";
    slider.oninput = () => moved(slider);
    slider.onchange = () => commit();
    slider.ondblclick = () => { slider.value = state.starts[name]; moved(slider); commit(0); };
    row.append(label, slider, value);
    $("sliders").append(row);
  }
  for (const view of about.views) {
    const button = document.createElement(view === "edit" ? "div" : "button"), image = document.createElement("img");
    image.id = `view-${view}`;
    image.alt = "";
    button.append(image, NAMES[view]);
    $("views").append(button);
    if (view === "edit") continue;
    button.type = "button";
    button.setAttribute("aria-pressed", view === against);
    button.onclick = () => trying(async () => {
      against = view;
      for (const other of $("views").querySelectorAll("button")) other.setAttribute("aria-pressed", other === button);
      await refresh([view]);
      wipe();
    });
  }
}

function connect() {
  for (const [id, slot] of [["file", "first"], ["second", "second"]]) {
    const input = $(id), area = input.parentElement;
    input.onchange = () => trying(async () => {
      const file = input.files[0];
      await take(file, slot);
      input.value = "";
    });
    area.ondragover = (event) => { event.preventDefault(); area.classList.add("over"); };
    area.ondragleave = () => area.classList.remove("over");
    area.ondrop = (event) => {
      event.preventDefault();
      area.classList.remove("over");
      trying(() => take(event.dataTransfer.files[0], slot));
    };
  }
  const another = () => state?.photos.first && trying(() => {
    const query = new URLSearchParams({ slot: "first", align: $("align").checked ? "1" : "0", face: $("faces").value || 1 });
    return inverted(state.photos.first.name, () => askJson(`api/face?${query}`, { method: "POST" }), "first");
  });
  $("faces").onchange = another;
  $("align").onchange = another;
  $("wipe").oninput = wipe;
  $("stage").onpointerdown = (event) => {
    $("stage").setPointerCapture(event.pointerId);
    drag(event);
  };
  $("stage").onpointermove = (event) => event.buttons && drag(event);
  $("paste").onchange = () => change(settings());
  $("blend").oninput = () => moved($("blend"));
  $("blend").onchange = () => commit();
  for (const id of ["undo", "redo", "reset"]) $(id).onclick = () => change({ do: id });
  addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z" || !state) return;
    event.preventDefault();
    change({ do: event.shiftKey ? "redo" : "undo" });
  });
  addEventListener("resize", wipe);
  $("edited").onload = () => { shape(); wipe(); };
  for (const button of document.querySelectorAll(".download")) {
    button.onclick = () => trying(async () => {
      const answer = await ask(`api/download?what=${button.dataset.what}`);
      const named = /filename\*=UTF-8''(.+)/.exec(answer.headers.get("Content-Disposition"));
      const link = document.createElement("a");
      link.href = URL.createObjectURL(await answer.blob());
      link.download = decodeURIComponent(named[1]);
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    });
  }
  addEventListener("pagehide", () => {
    if (session) fetch("api/close", { method: "POST", headers: { "X-Session": session }, keepalive: true });
  });
}

trying(async () => {
  about = await askJson("api/about");
  build();
  connect();
});
