/** Two engines over two accesses for the tests of a file: new ones for each test, with both paths up. */
import assert from 'node:assert/strict'
import { after, afterEach, before, beforeEach } from 'node:test'
import type { TrafficResult } from '../../support/udp-traffic.ts'
import { Bed, Couple, type TunnelNode } from './bed.ts'

/** How often work is tried on a machine that is too busy for it. */
const TRIES = 4

export class Engines {
  readonly couple = new Couple()
  bed!: Bed
  host!: TunnelNode
  anchor!: TunnelNode

  /** Registers the hooks; `name` tells the namespaces of files apart. */
  constructor(name: string, skip: string | false) {
    if (skip !== false) return
    before(async () => {
      this.bed = new Bed(name)
      // The echo server answers from the addresses of the anchor's device, which stays when its engine goes.
      const first = await this.startAnchor()
      await this.bed.echo(this.bed.anchor)
      await first.stop()
    })
    after(() => this.bed.close())
    beforeEach(() => this.#begin())
    afterEach(() => this.#end())
  }

  async #begin(): Promise<void> {
    await Promise.all([this.startAnchor(), this.startHost()])
    await this.bothUp()
    this.host.events.length = 0
    this.anchor.events.length = 0
  }

  async #end(): Promise<void> {
    this.bed.mend(1)
    for (const node of [this.host, this.anchor]) await ended(node)
  }

  /**
   * Of what `work` sends, nothing is lost and nothing arrives twice. Where an engine does not run for 300 ms because the
   * machine is busy, the other has no path, and of a flow without a path only the newest packet is kept: then everything
   * is done again, with new engines.
   */
  async losesNothing(work: () => Promise<readonly TrafficResult[]>): Promise<void> {
    for (let tries = 1; ; tries++) {
      const results = await work()
      const without = [this.host, this.anchor].some(wasWithoutPath)
      const said = () =>
        JSON.stringify({ results, without, host: states(this.host), anchor: states(this.anchor) })
      for (const { duplicates } of results) assert.equal(duplicates, 0, said())
      if (results.every(({ lost }) => lost === 0)) return
      assert.ok(without && tries < TRIES, said())
      await this.#end()
      await this.#begin()
    }
  }

  async startHost(addresses = this.couple.hostAddresses): Promise<TunnelNode> {
    this.host = await this.bed.node(this.bed.host, this.couple.hostSetup(), addresses)
    return this.host
  }

  async startAnchor(): Promise<TunnelNode> {
    const { bed, couple } = this
    this.anchor = await bed.node(bed.anchor, couple.anchorSetup(), couple.anchorAddresses)
    return this.anchor
  }

  async bothUp(): Promise<void> {
    await Promise.all([this.host.pathState(1, 'up'), this.host.pathState(2, 'up')])
  }
}

/** Whatever a test did: no write to the device failed, nothing was forged. */
async function ended(node: TunnelNode): Promise<void> {
  if (node.process.exitCode === null && node.process.signalCode === null) {
    const { counts } = await node.report()
    assert.equal(counts.inbound.forged, 0)
    assert.equal(counts.merger.failed, 0, `errno ${counts.lastWriteError}`)
  }
  await node.stop()
}

/** Whether both paths were down at the same time since the test began. */
function wasWithoutPath({ events }: TunnelNode): boolean {
  const usable = new Set([1, 2])
  return events.some((event) => {
    if (event.type === 'path-closed') usable.delete(event.pathId)
    else if (event.type === 'path') {
      const { pathId, state } = event.path
      if (['up', 'degrading', 'suspect'].includes(state.name)) usable.add(pathId)
      else usable.delete(pathId)
    }
    return usable.size === 0
  })
}

/** For people: how its paths changed. */
function states({ events }: TunnelNode): string {
  return events
    .flatMap((event) => (event.type === 'path' ? `${event.path.pathId} ${event.path.state.name}` : []))
    .join(', ')
}
