/**
 * Many DIME hosts in one process: an IHMP machine with a UDP socket at each address, without a kernel behind it. Prints
 * `ready`, and `moved` each time when all their peers are reached at another address than before. `dime-hosts ADDRESSES PORT`.
 */
import { createSocket, type Socket } from 'node:dgram'
import { nodeRandom } from '../../src/crypto/node-crypto.ts'
import { RealClock } from '../../src/linux/clock.ts'
import { SockDiag } from '../../src/linux/sockdiag.ts'
import { tcpStreams } from '../../src/linux/tcp-stream.ts'
import { FlowTable, type FoundFlow } from '../../src/translation/kernel/sockets.ts'
import { generateOwnKey, nodeIhmpCrypto } from '../../src/translation/keys.ts'
import { IhmpMachine } from '../../src/translation/machine/machine.ts'
import { bytesOf, type SocketRow, Tables } from '../../src/translation/tables.ts'

const addresses = (process.argv[2] ?? '').split(',')
const port = Number(process.argv[3])
const clock = new RealClock()
const at = new Map<string, string>()
let bound = 0
const kernel = tcpStreams()
const flows = new FlowTable(new SockDiag(), () => [], port)
/** How long a list of the kernel's sockets serves all hosts, ms. Each lists as many as a real host has, not those of a hundred. */
const LISTED_MS = 10_000
let byAddress = new Map<string, FoundFlow[]>()
let listedAt = -LISTED_MS

/** The connections of one of this process's servers, from a list made for all. */
function connections(address: string): readonly FoundFlow[] {
  if (clock.now() - listedAt >= LISTED_MS) {
    flows.update(new Set())
    byAddress = new Map()
    for (const flow of flows.all()) {
      const listed = byAddress.get(flow.local)
      if (listed) listed.push(flow)
      else byAddress.set(flow.local, [flow])
    }
    listedAt = clock.now()
  }
  return byAddress.get(address) ?? []
}

function changed(): void {
  const places = new Set(at.values())
  if (at.size === addresses.length && places.size === 1) process.stdout.write(`moved ${[...places]}\n`)
}

function host(address: string): void {
  const key = generateOwnKey()
  const socket: Socket = createSocket('udp4')
  const tables = new Tables()
  const look = (): void => {
    for (const { socket: _, retransmits: __, ...flow } of connections(address)) {
      if (tables.sockets.has(flow.id)) continue
      const hid = machine.handleFlow(flow, clock.now())
      if (hid === undefined) continue
      const row: SocketRow = { ...flow, hid }
      tables.addSocket(row)
      machine.handleSocket(row, clock.now())
    }
  }
  const machine: IhmpMachine = new IhmpMachine({
    tables,
    random: nodeRandom,
    crypto: nodeIhmpCrypto,
    keys: { own: () => key, known: () => undefined },
    wall: () => clock.wall(),
    hasFlow: () => true,
    lookAtSockets: look,
    streams:
      kernel &&
      ((rows) =>
        kernel.find(
          rows.map(({ local, localPort, foreign, foreignPort }) => ({
            protocol: 6,
            localAddress: bytesOf(local),
            localPort,
            remoteAddress: bytesOf(foreign),
            remotePort: foreignPort,
          })),
        )),
    preferredLocal: () => address,
  })
  let timer: NodeJS.Timeout | undefined
  const pump = (): void => {
    for (let out = machine.poll(); out !== undefined; out = machine.poll()) {
      if (out.kind === 'send') socket.send(out.bytes, out.port || port, out.pair.foreign)
      if (out.kind !== 'handover') continue
      at.set(address, out.to.foreign)
      changed()
    }
    clearTimeout(timer)
    const next = machine.nextTimeout()
    if (next === undefined) return
    const wake = (): void => {
      machine.handleTimeout(clock.now())
      pump()
    }
    timer = setTimeout(wake, Math.max(0, next - clock.now()))
  }
  socket.on('message', (bytes, from) => {
    const pair = { local: address, foreign: from.address }
    machine.handleMessage(Uint8Array.from(bytes), pair, from.port, clock.now())
    pump()
  })
  machine.handleLocal([{ ip: address, prefixLength: 16, device: 'eth0' }], clock.now())
  socket.bind(port, address, () => {
    if (++bound === addresses.length) process.stdout.write('ready\n')
  })
}

for (const address of addresses) host(address)
