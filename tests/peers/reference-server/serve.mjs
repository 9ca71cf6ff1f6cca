// Serves the reference implementation of the protocol until it is told to stop or its parent is gone.
//
//   node serve.mjs [--port N] [--data DIR] [--long-poll-timeout-ms N]
//
// Prints one line of JSON, {"url": ...}, once it accepts connections. Standard input is the parent's life line:
// when it closes, the server ends, so that a killed test run leaves nothing behind.
import { parseArgs } from "node:util"
import { DurableStreamTestServer } from "@durable-streams/server"

const { values } = parseArgs({
  options: {
    port: { type: "string", default: "0" },
    data: { type: "string" },
    "long-poll-timeout-ms": { type: "string", default: "500" },
  },
})

const server = new DurableStreamTestServer({
  host: "127.0.0.1",
  port: Number(values.port),
  longPollTimeout: Number(values["long-poll-timeout-ms"]),
  ...(values.data === undefined ? {} : { dataDir: values.data }),
})

async function end() {
  await server.stop()
  process.exit(0)
}

process.once("SIGTERM", end)
process.once("SIGINT", end)
process.stdin.once("end", () => process.exit(0))
process.stdin.resume()

console.log(JSON.stringify({ url: await server.start() }))
