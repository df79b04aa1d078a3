/**
 * Many DIME hosts in one process: an IHMP machine with a UDP socket at each address, without a kernel behind it. Prints
 * `ready`, and `moved` each time when all their peers are reached at another address than before. `dime-hosts ADDRESSES PORT`.
 */
import { createSocket, type Socket } from 'node:dgram'
import { nodeRandom } from '../../src/crypto/node-crypto.ts'
import { RealClock } from '../../src/linux/clock.ts'
import { generateOwnKey, nodeIhmpCrypto } from '../../src/translation/keys.ts'
import { IhmpMachine } from '../../src/translation/machine/machine.ts'
import { Tables } from '../../src/translation/tables.ts'

const addresses = (process.argv[2] ?? '').split(',')
const port = Number(process.argv[3])
const clock = new RealClock()
const at = new Map<string, string>()
let bound = 0

function changed(): void {
  const places = new Set(at.values())
  if (at.size === addresses.length && places.size === 1) process.stdout.write(`moved ${[...places]}\n`)
}

function host(address: string): void {
  const key = generateOwnKey()
  const socket: Socket = createSocket('udp4')
  const machine = new IhmpMachine({
    tables: new Tables(),
    random: nodeRandom,
    crypto: nodeIhmpCrypto,
    keys: { own: () => key, known: () => undefined },
    wall: () => clock.wall(),
    hasFlow: () => true,
    lookAtSockets: () => {},
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
