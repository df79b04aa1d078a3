/** Two engines over two accesses for the tests of a file: new ones for each test, with both paths up. */
import assert from 'node:assert/strict'
import { after, afterEach, before, beforeEach } from 'node:test'
import { Bed, Couple, type TunnelNode } from './bed.ts'

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
    beforeEach(async () => {
      await this.startAnchor()
      await this.startHost()
      await this.bothUp()
      this.host.events.length = 0
      this.anchor.events.length = 0
    })
    afterEach(async () => {
      this.bed.mend(1)
      for (const node of [this.host, this.anchor]) await ended(node)
    })
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
