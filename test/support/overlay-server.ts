/**
 * The machines of coordinator and relay (overlay-servers.ts) on real sockets, with a store in memory, as a program of its own. Its argument: its address
 * and the nodes with their public keys in base64. Prints one line with what each node's login would have given, then `ready`.
 */
import { createSocket } from 'node:dgram'
import { argumentsOf, commands, print } from '../../lab/programs/program.ts'
import { formatAddress, parseAddress } from '../../src/core/address.ts'
import { nodeRandom } from '../../src/crypto/node-crypto.ts'
import { MachineServers } from './overlay-servers.ts'

interface Arguments {
  readonly address: string
  readonly nodes: readonly { readonly name: string; readonly publicKey: string }[]
}

const PORT = 6741
const RELAY_PORTS = 16
const { address, nodes } = argumentsOf<Arguments>()
const bytesOf = (text: string) => {
  const parsed = parseAddress(text)
  if (!parsed.ok) throw new Error(text)
  return parsed.value
}
const sockets = Array.from({ length: RELAY_PORTS + 1 }, () => createSocket('udp4'))
const server = new MachineServers({
  now: () => performance.now(),
  wall: () => Date.now(),
  fill: (out) => nodeRandom.fill(out),
  relayPorts: sockets.map((_, i) => ({ address: bytesOf(address), port: PORT + 10 + i })),
  send: (port, to, bytes) => sockets[port]!.send(bytes, to.port, formatAddress(to.address)),
})
setInterval(() => server.handleTimeout(performance.now()), 50)
for (const [i, socket] of sockets.entries()) {
  socket.on('message', (bytes, from) =>
    server.receive(i, new Uint8Array(bytes), { address: bytesOf(from.address), port: from.port }),
  )
  await new Promise<void>((resolve) => socket.bind(i === 0 ? PORT : PORT + 10 + i, address, resolve))
}
const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64')
print(
  nodes.map(({ name, publicKey }) => {
    const { credentials } = server.add(name, new Uint8Array(Buffer.from(publicKey, 'base64')))
    return {
      version: 1,
      name,
      key_id: base64(credentials.keyId),
      key: base64(credentials.key),
      coordinator: `${address}:${PORT}`,
      zone_key: base64(credentials.zoneKey),
      server: 'test',
      account: name,
    }
  }),
)
commands((line) => {
  if (line === 'restart') server.restart()
})
