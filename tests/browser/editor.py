"""The editor's page, moved as a user moves it; what is read from it comes from the page itself."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from host_server import HostServer

# Every event that the page gets from the server, in its order, with the progress that nodes show.
LISTEN = """kinds => {
  window.heard = []
  for (const kind of kinds)
    app.api.addEventListener(kind, ({ detail }) =>
      window.heard.push({
        kind,
        detail,
        shown: app.graph.nodes.filter(n => n.progress > 0).map(n => [n.id, n.progress])
      }))
}"""
KINDS = (
    "execution_start",
    "execution_cached",
    "executing",
    "executed",
    "progress_state",
    "execution_success",
    "execution_error",
    "execution_interrupted",
)
ENDS = KINDS[-3:]
STARTED = """window.app?.vueAppReady && app.graph && app.extensionManager
  && app.extensionManager.workflow.activeWorkflow && !app.extensionManager.spinner"""
RUN = ".p-splitbutton-button"  # its label changes with the language

# What a user would see as broken in a graph: nodes without a class, required sockets without a
# link, and links whose ends do not fit.
FAULTS = """() => app.graph.nodes.flatMap(node => {
  const faults = []
  if (node.mode === LiteGraph.NEVER) return []
  const known = LiteGraph.registered_node_types[node.type]
  if (!known && !node.isVirtualNode) return [`${node.type} is missing`]
  if (node.has_errors) faults.push(`${node.title} is marked as broken`)
  const required = known?.nodeData?.input?.required ?? {}
  for (const slot of node.inputs ?? []) {
    if (slot.link == null && slot.name in required && !slot.widget)
      faults.push(`${node.title}: ${slot.name} is not connected`)
    const link = slot.link == null ? null : app.graph.links.get(slot.link)
    if (slot.link != null && !link) faults.push(`${node.title}: ${slot.name} hangs on nothing`)
    if (link && !LiteGraph.isValidConnection(link.type, slot.type))
      faults.push(`${node.title}: ${slot.name} does not take ${link.type}`)
  }
  return faults
})"""

# Pairs of nodes of which one hides a part of the other.
OVERLAPS = """() => app.graph.nodes.flatMap((a, i) => app.graph.nodes.slice(i + 1)
  .filter(b => {
    const [p, q] = [a.boundingRect, b.boundingRect]
    return p[0] < q[0] + q[2] && q[0] < p[0] + p[2] && p[1] < q[1] + q[3] && q[1] < p[1] + p[3]
  })
  .map(b => `${a.title} over ${b.title}`))"""

DROP = """([name, kind, content, x, y]) => {
  const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0))
  const transfer = new DataTransfer()
  transfer.items.add(new File([bytes], name, { type: kind }))
  const canvas = document.getElementById('graph-canvas')
  for (const event of ['dragenter', 'dragover', 'drop'])
    canvas.dispatchEvent(new DragEvent(event, {
      bubbles: true, cancelable: true, clientX: x, clientY: y, dataTransfer: transfer
    }))
}"""


class Editor:
    """One page. Nodes are named by their id in the graph."""

    def __init__(self, page: Any, server: HostServer, shots: Path | None):
        self.page, self.server, self._shots = page, server, shots
        self._chosen: Path | None = None
        # Listening from the start: the browser needs a while until it asks us and not its user.
        page.on("filechooser", lambda asked: asked.set_files(self._chosen))

    def open(self) -> None:
        """Loads the page and empties its canvas."""
        self.page.goto(f"http://127.0.0.1:{self.server.port}/")
        # The page starts by opening a workflow of its own, which must not come after ours.
        self.page.wait_for_function(STARTED)
        self.page.locator(RUN).wait_for()
        self.drawn()
        self.page.evaluate("app.graph.clear()")
        self.page.evaluate(LISTEN, list(KINDS))

    def version(self) -> tuple[int, int]:
        """Of the editor, as it says: (1, 32)."""
        first, second = self.page.evaluate("window.__COMFYUI_FRONTEND_VERSION__").split(".")[:2]
        return int(first), int(second)

    # Pictures

    def shot(self, name: str, around: Sequence[int] | None = None) -> None:
        """Keeps a picture of the page, where a folder for them was given."""
        if around is not None:
            self.look_at(around)
        if self._shots is not None:
            self._shots.mkdir(parents=True, exist_ok=True)
            # Without animations a dialog is there and not on its way.
            picture = Image.open(io.BytesIO(self.page.screenshot(animations="disabled")))
            picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
                self._shots / f"{name}.png", optimize=True
            )

    def look_at(self, nodes: Sequence[int] | None = None, scale: float | None = None) -> None:
        """Moves the view so that the nodes (all of them, for None) fill the canvas."""
        self.page.evaluate(
            """([ids, scale]) => {
              const shown = app.graph.nodes.filter(n => !ids || ids.includes(n.id))
              const boxes = shown.map(n => n.boundingRect)
              const left = Math.min(...boxes.map(b => b[0]))
              const top = Math.min(...boxes.map(b => b[1]))
              const right = Math.max(...boxes.map(b => b[0] + b[2]))
              const bottom = Math.max(...boxes.map(b => b[1] + b[3]))
              const canvas = app.canvas.canvas.getBoundingClientRect()
              const room = { x: 90, y: 90, width: canvas.width - 120, height: canvas.height - 150 }
              const ds = app.canvas.ds
              ds.scale = scale ?? Math.min(
                1.2, room.width / (right - left), room.height / (bottom - top))
              ds.offset[0] = (room.x + room.width / 2) / ds.scale - (left + right) / 2
              ds.offset[1] = (room.y + room.height / 2) / ds.scale - (top + bottom) / 2
              app.canvas.setDirty(true, true)
            }""",
            [None if nodes is None else list(nodes), scale],
        )
        self.drawn()

    def drawn(self) -> None:
        """Waits until the canvas has been drawn after what was done before."""
        self.page.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        self.page.wait_for_function("!app.canvas.dirty_canvas && !app.canvas.dirty_bgcanvas")

    # Graphs

    def open_template(self, name: str) -> None:
        """Opens a template of the pack from Browse Templates."""
        self.browse_templates()
        self.page.get_by_test_id(f"template-workflow-{name}").click()
        self.page.locator(".workflow-tabs").get_by_text(name, exact=True).wait_for()
        self.loaded()

    def browse_templates(self) -> None:
        self.page.get_by_role("button", name="Templates").click()
        dialog = self.page.locator(".workflow-template-selector-dialog")
        dialog.get_by_text("nested-attention", exact=True).click()
        dialog.get_by_test_id("template-workflow-one_subject").wait_for()

    def drop(self, name: str, content: bytes, kind: str) -> None:
        """Drops a file on an empty place of the canvas."""
        packed = base64.b64encode(content).decode()
        self.page.evaluate(DROP, [name, kind, packed, 700, 450])
        self.loaded()

    def load(self, workflow: dict[str, Any]) -> None:
        """Drops a workflow in UI form."""
        self.drop("workflow.json", json.dumps(workflow).encode(), "application/json")

    def loaded(self) -> None:
        self.page.wait_for_function("app.graph.nodes.length > 0 && !app.extensionManager.spinner")
        self.drawn()  # then the view is where the workflow puts it
        self.drawn()

    def faults(self) -> list[str]:
        """What is broken in the graph, a sentence each; also what a warning on the page says."""
        warned = self.page.locator(".comfy-missing-nodes").all_inner_texts()
        return [*self.page.evaluate(FAULTS), *warned]

    def overlaps(self) -> list[str]:
        """Which nodes lie over which, as they are drawn now."""
        return self.page.evaluate(OVERLAPS)

    def nodes(self, kind: str, title: str | None = None) -> list[int]:
        """Ids of the nodes of a class (and of a title)."""
        return self.page.evaluate(
            """([kind, title]) => app.graph.nodes
              .filter(n => n.type === kind && (title === null || n.title === title))
              .map(n => n.id)""",
            [kind, title],
        )

    def node(self, kind: str, title: str | None = None) -> int:
        """The only one of them."""
        (found,) = self.nodes(kind, title)
        return found

    def add(self, kind: str, at: tuple[int, int] = (0, 0)) -> int:
        """Puts a node on the canvas."""
        return self.page.evaluate(
            """([kind, at]) => {
              const node = LiteGraph.createNode(kind)
              node.pos = at
              app.graph.add(node)
              return node.id
            }""",
            [kind, list(at)],
        )

    def connect(self, source: int, output: int, target: int, slot: str) -> None:
        self.page.evaluate(
            """([source, output, target, slot]) => {
              const node = app.graph.getNodeById(target)
              app.graph.getNodeById(source).connect(output, node, node.findInputSlot(slot))
            }""",
            [source, output, target, slot],
        )

    def select(self, node: int) -> None:
        self.look_at([node], scale=1)
        self.page.evaluate("id => app.canvas.selectNode(app.graph.getNodeById(id))", node)

    def search(self, words: str) -> Any:
        """Types into the search that a double click on the canvas opens; the list of what it
        found."""
        box = self.page.locator(".comfy-vue-node-search-container")
        field = box.locator("input")
        for _ in range(12):
            # Where the page is slow, its canvas takes the two clicks for single ones.
            self.page.mouse.dblclick(1100, 700)
            if self._comes(field):
                break
        field.fill(words)
        return box.get_by_role("option")

    def _comes(self, shown: Any, within: float = 10_000) -> bool:
        """Whether a thing of the page is there to be seen before `within` milliseconds are over."""
        from playwright.sync_api import TimeoutError as TooLate

        try:
            shown.wait_for(timeout=within)
        except TooLate:
            return False
        return True

    # Widgets

    def value(self, node: int, widget: str) -> Any:
        return self.page.evaluate(
            "([id, name]) => app.graph.getNodeById(id).widgets.find(w => w.name === name).value",
            [node, widget],
        )

    def set_value(self, node: int, widget: str, value: Any) -> None:
        """Sets what no test is about."""
        self.page.evaluate(
            """([id, name, value]) => {
              const widget = app.graph.getNodeById(id).widgets.find(w => w.name === name)
              widget.value = value
              widget.callback?.(value)
            }""",
            [node, widget, value],
        )

    def click_widget(
        self, node: int, widget: str, across: float = 0.5, chooses: Path | None = None
    ) -> None:
        """Clicks on a widget that the canvas draws.

        across: 0 is its left end, 1 its right.
        chooses: what to answer where the page asks for a file.
        """
        self.look_at([node], scale=1)
        x, y = self.page.evaluate(
            """([id, name, across]) => {
              const node = app.graph.getNodeById(id)
              const widget = node.widgets.find(w => w.name === name)
              const [x, y] = app.canvas.ds.convertOffsetToCanvas([
                node.pos[0] + 16 + (node.size[0] - 32) * across,
                node.pos[1] + widget.y + LiteGraph.NODE_WIDGET_HEIGHT / 2
              ])
              const canvas = app.canvas.canvas.getBoundingClientRect()
              return [canvas.left + x, canvas.top + y]
            }""",
            [node, widget, across],
        )
        # The canvas knows the nodes that it has drawn.
        self.page.wait_for_function(
            "id => app.canvas.visible_nodes.some(n => n.id === id)", arg=node
        )
        # Masks of what has just been loaded or closed may lie over the canvas for a while.
        self.page.wait_for_function(
            "([x, y]) => document.elementFromPoint(x, y)?.id === 'graph-canvas'", arg=[x, y]
        )
        self._chosen = chooses
        self.page.mouse.click(x, y)

    def write(self, node: int, widget: str, text: str) -> None:
        """Writes into a text field of a node."""
        field = self.page.evaluate_handle(
            "([id, name]) => app.graph.getNodeById(id).widgets.find(w => w.name === name).element",
            [node, widget],
        ).as_element()
        self.look_at([node])
        field.fill(text)

    # Runs

    def queue(self) -> None:
        self.page.evaluate("window.heard.length = 0")
        self.page.locator(RUN).click()

    def heard(self, kind: str) -> list[dict[str, Any]]:
        """What the page heard of a kind since the last click on Run."""
        return self.page.evaluate("kind => window.heard.filter(e => e.kind === kind)", kind)

    def wait_for(self, *kinds: str) -> dict[str, Any]:
        """The first event of these kinds since the last click on Run."""
        return self.page.wait_for_function(
            "kinds => window.heard.find(e => kinds.includes(e.kind))", arg=list(kinds)
        ).json_value()

    def run(self) -> str:
        """Clicks Run and waits for the end of the job; returns how it ended."""
        self.queue()
        return self.wait_for(*ENDS)["kind"]
