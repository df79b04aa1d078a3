/**
 * Moves a host that is only here, between two protocol machines and maps that go nowhere, so that the first real move
 * finds its code compiled: it runs once in a while, and takes twice as long the first time.
 */
import type { Clock, Random } from '../../core/clock.ts'
import { generateOwnKey, nodeIhmpCrypto } from '../keys.ts'
import { IhmpMachine } from '../machine/machine.ts'
import type { Output } from '../machine/types.ts'
import { compile, flowId, type Ip, type Pair, Tables } from '../tables.ts'
import { StackTransKernel } from './maps.ts'

const MOVES = 4
/** From the ranges for documentation (RFC 5737): they appear nowhere. */
const SERVER = '198.51.100.1'
const PLACES: readonly Ip[] = ['192.0.2.1', '203.0.113.1']
const PORTS = [40_000, 443] as const

interface Actor {
  readonly machine: IhmpMachine
  readonly tables: Tables
  readonly kernel: StackTransKernel
}

/** Takes some tens of milliseconds, and touches nothing outside. Returns how often one of the two switched. */
export function rehearse(clock: Clock, random: Random): number {
  const mobile = actor(clock, random)
  const server = actor(clock, random)
  const first = { local: PLACES[0]!, foreign: SERVER }
  talk(mobile, first, PORTS, clock)
  talk(server, { local: SERVER, foreign: PLACES[0]! }, [PORTS[1], PORTS[0]], clock)
  at(server, SERVER, clock)
  let switched = 0
  const deliver = (from: Actor, to: Actor): boolean => {
    const outputs = carryOut(from, to, clock)
    for (const { kind } of outputs) if (kind === 'handover') switched++
    return outputs.length > 0
  }
  for (let i = 0; i <= MOVES; i++) {
    at(mobile, PLACES[i % PLACES.length]!, clock)
    while (deliver(mobile, server) || deliver(server, mobile)) {}
  }
  return switched
}

function actor(clock: Clock, random: Random): Actor {
  const tables = new Tables()
  const key = generateOwnKey()
  const machine = new IhmpMachine({
    tables,
    random,
    crypto: nodeIhmpCrypto,
    keys: { own: () => key, known: () => undefined },
    wall: () => clock.wall(),
    hasFlow: () => true,
    lookAtSockets: () => {},
    preferredLocal: () => undefined,
  })
  const nowhere = { commit: () => {}, dump: () => undefined, hasTable: () => true, close: () => {} }
  return { machine, tables, kernel: new StackTransKernel({ table: 'rehearsal', watch: false }, nowhere) }
}

function talk(actor: Actor, pair: Pair, ports: readonly [number, number], clock: Clock): void {
  const hid = actor.machine.handleFlow(pair, clock.now())!
  const [localPort, foreignPort] = ports
  const id = flowId(6, pair.local, localPort, pair.foreign, foreignPort)
  actor.tables.addSocket({ ...pair, id, hid, protocol: 6, localPort, foreignPort, inode: 0, taken: 'both' })
}

function at({ machine }: Actor, ip: Ip, clock: Clock): void {
  machine.handleLocal([{ ip, prefixLength: 24, device: 'none' }], clock.now())
}

/** Carries out what one wants, and brings its messages to the other. */
function carryOut({ machine, tables, kernel }: Actor, to: Actor, clock: Clock): Output[] {
  const done: Output[] = []
  for (let out = machine.poll(); out !== undefined; out = machine.poll()) {
    done.push(out)
    if (out.kind === 'apply') kernel.apply(out.hids.map((hid) => [hid, compile(tables, [hid])]))
    if (out.kind !== 'send') continue
    const { local, foreign } = out.pair
    to.machine.handleMessage(out.bytes, { local: foreign, foreign: local }, out.port, clock.now())
  }
  return done
}
