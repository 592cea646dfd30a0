// Tries examples/notifier.cjs: check.cjs SOCKET SILENT. It asks for a restart by the line "restart", and waits for one back.

const { Notifier } = require("../../../examples/notifier.cjs");

const [SOCKET, SILENT] = process.argv.slice(2);

const options = (id, session = "js") => ({
  sessionId: session, customerIds: [{ id: "c", integrationCode: "crm", authenticatedState: "unknown" }], visitor: undefined,
  request: { notifications: [{ id, type: "display", mbox: { name: "home", state: "s" }, tokens: ["t"] }] },
});
const assert = (holds, said) => { if (!holds) throw new Error(said); };
const refusal = (notifier, options) =>
  notifier.notify(options).then(() => "it went through", (error) => error.message);

async function check() {
  const notifier = new Notifier(SOCKET, 120000);
  assert((await notifier.notify(options("1"))).ids[0] === "1", "other ids");

  process.stdout.write("restart\n");
  await new Promise((done) => process.stdin.once("data", done));
  assert((await notifier.notify(options())).session_id === "js", "other session");

  const wrong = await refusal(notifier, { request: { notifications: [{ type: "shown" }] } });
  assert(wrong.includes("notifications[0].type"), wrong);
  for (const name of ["visitorCookie", "visitor"]) {
    const said = await refusal(notifier, { ...options("1"), [name]: "x" });
    assert(said.startsWith(name) && said.includes("marketingCloudVisitorId"), said);
  }
  for (const [options, expected] of [
    [{ sesionId: "x" }, "sesionId: is no option of sendNotifications"],
    [{}, "request.notifications: is required"],
    [{ request: {} }, "request.notifications: is required"],
  ]) {
    const said = await refusal(notifier, options);
    assert(said === expected, said);
  }

  const names = Array.from({ length: 100 }, (_, number) => `call-${number}`);
  const replies = await Promise.all(names.map((name) => notifier.notify(options(undefined, name))));
  assert(replies.every((reply, number) => reply.session_id === names[number]), "a call got another's reply");
  notifier.end();

  // A daemon that takes the connection and says nothing.
  const silent = new Notifier(SILENT, 50);
  const said = await Promise.all([refusal(silent, options("1")), refusal(silent, options("2"))]);
  assert(said.every((said) => said === "no reply in time"), said.join());
  assert(silent.stream === null && silent.waiting.length === 0, "something is left");
  process.stdin.destroy();
}

check().catch((error) => { console.error(error); process.exit(1); });
