/** Two whole nodes, the first behind a NAT that ends mappings at an age, and a flow between them. */
import { MachineServers } from '../../support/overlay-servers.ts'
import { EngineNode, Flow } from './engine-node.ts'
import { Nat, type NatKind, Network } from './network.ts'

/** Undefined: a public address. */
export type CarrierKinds = readonly [NatKind, NatKind | undefined]

/** Between two datagrams of the flow (ms). */
export const EVERY = 5

/** `lifetimes` of the mappings of both NATs (ms); absent: as long as they are used. */
export function carrierWorld([kindA, kindB]: CarrierKinds, lifetimes: readonly number[]) {
  const net = new Network(1, (parts) => new MachineServers(parts))
  const alice = new EngineNode(net, 'alice', 1)
  const bob = new EngineNode(net, 'bob', 2)
  const nat = (kind: NatKind, n: number) => {
    const made = new Nat(kind, `203.0.113.${n}`, () => net.now)
    made.lifetime = lifetimes[n - 1] ?? made.lifetime
    return made
  }
  alice.use({ name: 'acc1', address: '10.1.0.2', nat: nat(kindA, 1) })
  if (kindB === undefined) bob.use({ name: 'acc1', address: '198.51.100.2' })
  else bob.use({ name: 'acc1', address: '192.168.2.10', nat: nat(kindB, 2) })
  net.until(() => alice.address !== undefined && bob.address !== undefined)
  alice.do({ type: 'resolve', name: bob.name })
  const flow = new Flow(net, [alice, bob], EVERY)
  flow.run(1_000)
  flow.lost()
  return { net, alice, bob, flow }
}
