/** Queueing disciplines (linux/pkt_sched.h). */
import type { NetlinkMessage } from '../../netlink.ts'
import type { Qdisc } from '../types.ts'

const TCA_KIND = 1
const TCA_OPTIONS = 2
const TC_ROOT = 0xffffffff
/** A clock tick of the packet scheduler, in nanoseconds. */
const TICK_NS = 64
const Tbf = { PARAMETERS: 1, RATE64: 4, BURST: 6 } as const
const LINK_LAYER_ETHERNET = 1
const Netem = { LATENCY64: 10, JITTER64: 11 } as const

/** tcmsg: family u8, 3 padding, index i32, handle u32, parent u32, info u32. */
export function writeQdisc(message: NetlinkMessage, index: number, qdisc: Qdisc | undefined): void {
  message.u32(0).u32(index).u32(0).u32(TC_ROOT).u32(0)
  if (qdisc === undefined) return
  message.attributeString(TCA_KIND, qdisc.kind)
  if (qdisc.kind === 'tbf') {
    const bytesPerSecond = qdisc.rate / 8
    message.nested(TCA_OPTIONS, () => {
      // tc_tbf_qopt: rate and peak rate (tc_ratespec of 12 bytes), limit, buffer in ticks, mtu
      message.structure(Tbf.PARAMETERS, () =>
        message
          .u8(0)
          .u8(LINK_LAYER_ETHERNET)
          .zeros(6)
          .u32(Math.min(0xffffffff, bytesPerSecond))
          .zeros(12)
          .u32(qdisc.limit)
          .u32(((qdisc.burst / bytesPerSecond) * 1e9) / TICK_NS)
          .u32(0),
      )
      if (bytesPerSecond > 0xffffffff) message.attributeU64(Tbf.RATE64, bytesPerSecond)
      message.attributeU32(Tbf.BURST, qdisc.burst)
    })
  } else {
    // tc_netem_qopt: latency in ticks, limit, loss (of 2^32), gap, duplicate, jitter
    message.structure(TCA_OPTIONS, () => {
      message
        .u32(0)
        .u32(qdisc.limit ?? 1000)
        .u32(Math.min(0xffffffff, Math.round((qdisc.loss ?? 0) * 2 ** 32)))
        .zeros(12)
      message.attributeU64(Netem.LATENCY64, Math.round((qdisc.delay ?? 0) * 1e6))
      message.attributeU64(Netem.JITTER64, Math.round((qdisc.jitter ?? 0) * 1e6))
    })
  }
}
