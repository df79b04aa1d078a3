/**
 * A relay by itself, with the test in the coordinator's place: `relay-host SETTINGS.json`. Lines of standard input are its
 * commands as JSON, lines of standard output its events; keys and addresses are arrays of bytes.
 */
import { createInterface } from 'node:readline'
import { RelayPart } from '../../src/overlay/servers/relay-part.ts'

const plain = (_: string, value: unknown) =>
  value instanceof Uint8Array ? [...value] : typeof value === 'bigint' ? Number(value) : value
const revived = (key: string, value: unknown) =>
  key === 'node'
    ? BigInt(value as number)
    : Array.isArray(value) && typeof value[0] === 'number'
      ? Uint8Array.from(value)
      : value
const say = (event: object) => console.log(JSON.stringify(event, plain))

const relay = await RelayPart.start(JSON.parse(process.argv[2]!), {
  onEvent: say,
  onEnd: (error) => {
    if (error !== undefined) throw error
  },
})
say({ ready: true })
for await (const line of createInterface({ input: process.stdin })) relay.post(JSON.parse(line, revived))
await relay.stop()
process.exit(0)
