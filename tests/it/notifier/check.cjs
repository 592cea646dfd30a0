// Tries examples/notifier.cjs: check.cjs SOCKET. It asks for a restart by the line "restart", and waits for one back.

const { Notifier } = require("../../../examples/notifier.cjs");

const notifier = new Notifier(process.argv[2], 120000);
const options = (id) => ({ sessionId: "js", customerIds: [{ id: "c", integrationCode: "crm", authenticatedState: "unknown" }],
  request: { notifications: [{ id, type: "display", mbox: { name: "home", state: "s" }, tokens: ["t"] }] }, visitor: {} });
(async () => {
  if ((await notifier.notify(options("1"))).ids[0] !== "1") throw new Error("other ids");
  process.stdout.write("restart\n");
  await new Promise((done) => process.stdin.once("data", done));
  if ((await notifier.notify(options())).session_id !== "js") throw new Error("other session");
  const wrong = await notifier.notify({ request: { notifications: [{ type: "shown" }] } }).catch((error) => error);
  if (!String(wrong).includes("notifications[0].type")) throw new Error("a wrong option went through: " + wrong);
  notifier.end();
  process.stdin.destroy();
})().catch((error) => { console.error(error); process.exit(1); });
