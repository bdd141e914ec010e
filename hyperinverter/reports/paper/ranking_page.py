"""The page on which people rank methods blindly: one HTML file with its pictures, used by keyboard or pointer.

Nothing in the file says which method made a picture: pictures have codes, and what a code means lies in another file.
Questions and pictures are shuffled anew for every participant, in the browser; nothing is sent anywhere, the last
button saves the votes as a file.
"""

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from hyperinverter.utils.files import write_text

MOST_PX = 512  # side of a picture on the page


@dataclass(frozen=True)
class Question:
    """One photo and what the methods made of it.

    Attributes:
        task: reconstruction or editing.
        text: what is to be ranked by.
        photo: the input, as `encoded` gives it.
        pictures: code -> what a method made, as `encoded` gives it.
    """

    id: str
    task: str
    text: str
    photo: str
    pictures: dict[str, str]


def encoded(picture: Image.Image) -> str:
    """A picture as a data address, at most MOST_PX wide."""
    small = picture.copy()
    small.thumbnail((MOST_PX, MOST_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def write_page(path: Path, page_id: str, title: str, questions: Sequence[Question]) -> None:
    """Write the page; `page_id` stands in the votes it saves."""
    data = json.dumps({"page": page_id, "questions": [asdict(question) for question in questions]})
    safe = data.replace("<", "\\u003c")  # no text of it ends the script
    write_text(path, _PAGE.replace("@TITLE@", html.escape(title)).replace("@DATA@", safe))


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>@TITLE@</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; }
figure, button.picture { margin: 0; padding: .4rem; border: 3px solid #8886; border-radius: 8px; background: none;
 color: inherit; font: inherit; text-align: center; flex: 1 1 10rem; max-width: 18rem; }
button.picture { cursor: pointer; }
button.picture[data-rank] { border-color: #2a7; }
button:focus-visible { outline: 4px solid #06c; outline-offset: 2px; }
img { width: 100%; image-rendering: auto; border-radius: 4px; }
.rank { font-weight: 700; min-height: 1.6em; }
nav { margin: 1rem 0; display: flex; gap: 1rem; align-items: center; }
nav button { font: inherit; padding: .4rem 1rem; }
</style>
</head>
<body>
<h1>@TITLE@</h1>
<p>Which picture is best? Choose them in order, the best one first: with a click, or with the keys 1, 2, 3, … for the
first, second, third picture. Backspace takes the last choice back, Enter goes on. Votes stay on this machine until you
save them.</p>
<p id="where" role="status" aria-live="polite"></p>
<p id="text"></p>
<div class="row" id="pictures"></div>
<nav><button id="undo">Take back</button><button id="next" disabled>Next</button>
<button id="save">Save votes</button></nav>
<noscript>This page needs JavaScript.</noscript>
<script>
"use strict";
const data = @DATA@;
const random = n => { const x = new Uint32Array(1); crypto.getRandomValues(x); return x[0] % n; };
const shuffled = list => { list = [...list];
  for (let i = list.length - 1; i > 0; i--) { const j = random(i + 1); [list[i], list[j]] = [list[j], list[i]]; }
  return list; };
const store = "ranking-" + data.page;
let state = null;
try { state = JSON.parse(localStorage.getItem(store)); } catch (error) { state = null; }
if (!state) state = {
  participant: Array.from(crypto.getRandomValues(new Uint8Array(8)), x => x.toString(16).padStart(2, "0")).join(""),
  order: shuffled(data.questions.map(q => [q.id, shuffled(Object.keys(q.pictures))])), votes: {} };
const keep = () => {
  try { localStorage.setItem(store, JSON.stringify(state)); } catch (error) { /* the page keeps it */ } };
const byId = Object.fromEntries(data.questions.map(q => [q.id, q]));
const at = name => document.getElementById(name);
let place = 0, chosen = [];
const firstOpen = () => {
  const i = state.order.findIndex(([id]) => !state.votes[id]);
  return i < 0 ? state.order.length : i; };
function show() {
  const done = Object.keys(state.votes).length;
  if (place >= state.order.length) {
    at("where").textContent = `All ${done} questions are answered: save your votes.`;
    at("text").textContent = ""; at("pictures").replaceChildren();
    at("next").disabled = true; at("save").focus(); return; }
  const [id, codes] = state.order[place], question = byId[id];
  at("where").textContent = `Question ${place + 1} of ${state.order.length}; ${done} answered`;
  at("text").textContent = question.text;
  const input = document.createElement("figure"), photo = document.createElement("img");
  photo.src = question.photo; photo.alt = "the input"; input.append(photo, "input");
  const buttons = codes.map((code, i) => {
    const button = document.createElement("button"), image = document.createElement("img");
    const rank = document.createElement("div");
    button.className = "picture"; image.src = question.pictures[code]; image.alt = `picture ${i + 1}`;
    rank.className = "rank";
    const r = chosen.indexOf(code);
    if (r >= 0) { button.dataset.rank = r + 1; }
    rank.textContent = r >= 0 ? `rank ${r + 1}` : `key ${i + 1}`;
    button.setAttribute("aria-label", `picture ${i + 1}` + (r >= 0 ? `, rank ${r + 1}` : ", not ranked"));
    button.append(image, rank); button.onclick = () => choose(i); return button; });
  at("pictures").replaceChildren(input, ...buttons);
  at("next").disabled = chosen.length < codes.length;
}
function choose(i) {
  if (place >= state.order.length) return;
  const code = state.order[place][1][i];
  if (code === undefined || chosen.includes(code)) return;
  chosen.push(code); show();
  if (!at("next").disabled) at("next").focus(); else document.querySelectorAll("button.picture")[i].focus();
}
function undo() { if (chosen.pop() !== undefined) show(); }
function next() {
  if (at("next").disabled) return;
  state.votes[state.order[place][0]] = chosen; keep(); chosen = []; place = firstOpen(); show();
  const first = document.querySelector("button.picture"); if (first) first.focus();
}
function save() {
  const votes = Object.entries(state.votes).map(([question, ranked]) => ({ question, ranked }));
  const text = JSON.stringify({ page: data.page, participant: state.participant, votes }, null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = `votes_${state.participant}.json`; link.click(); URL.revokeObjectURL(link.href);
}
at("undo").onclick = undo; at("next").onclick = next; at("save").onclick = save;
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (/^[1-9]$/.test(event.key)) { choose(Number(event.key) - 1); event.preventDefault(); }
  else if (event.key === "Backspace") { undo(); event.preventDefault(); }
  else if (event.key === "Enter" && !at("next").disabled) { next(); event.preventDefault(); }
});
place = firstOpen(); keep(); show();
</script>
</body>
</html>
"""
