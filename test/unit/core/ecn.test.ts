/** RFC 6040 §4.2, figure 4, written out; and the marks as they lie in both headers. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decapsulateEcn, Ecn, ecnOf } from '../../../src/core/ecn.ts'
import { ipv4HeaderSum, udp } from '../../support/packets.ts'

const { notCapable, capable0, capable1, congested } = Ecn
/** By inner field, what comes out for an outer field of Not-ECT, ECT(0), ECT(1) and CE; undefined: dropped. */
const FIGURE_4: readonly (readonly [number, readonly (number | undefined)[]])[] = [
  [notCapable, [notCapable, notCapable, notCapable, undefined]],
  [capable0, [capable0, capable0, capable1, congested]],
  [capable1, [capable1, capable1, capable1, congested]],
  [congested, [congested, congested, congested, congested]],
]
const DSCP = 46

for (const version of [4, 6] as const)
  test(`issue 10 D9: what leaves the tunnel has the mark that RFC 6040 says, IPv${version}`, () => {
    for (const [inner, row] of FIGURE_4)
      for (const [column, outer] of [notCapable, capable0, capable1, congested].entries()) {
        const packet = udp({ version, payload: Uint8Array.of(1, 2, 3) }).slice(10)
        const view = new DataView(packet.buffer)
        const traffic = (DSCP << 2) | inner
        if (version === 4) {
          packet[1] = traffic
          view.setUint16(10, 0)
          view.setUint16(10, ~ipv4HeaderSum(packet) & 0xffff)
        } else view.setUint16(0, 0x6000 | (traffic << 4) | 5) // a flow label, too
        const before = packet.slice()
        const what = `inner ${inner}, outer ${outer}`
        assert.equal(decapsulateEcn(view, 0, outer), row[column] !== undefined, what)
        assert.equal(ecnOf(view, 0), row[column] ?? inner, what)
        // The DSCP, and all the rest, stays.
        if (version === 4) {
          assert.equal(ipv4HeaderSum(packet), 0xffff, what)
          view.setUint16(10, 0)
          new DataView(before.buffer).setUint16(10, 0)
          before[1] = (DSCP << 2) | (row[column] ?? inner)
        } else before[1] = (before[1]! & ~0x30) | ((row[column] ?? inner) << 4)
        assert.deepEqual(packet, before, what)
      }
  })
