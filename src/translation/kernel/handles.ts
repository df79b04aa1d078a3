/** The kernel as DIME uses it: opened once, and handed to what works on it. */
import { type TcpStreams, tcpStreams } from '../../linux/tcp-stream.ts'
import { tcxObstacle } from '../../linux/tcx.ts'
import type { Services } from '../../mechanism/services.ts'
import { HostNetwork, type NetworkOptions } from '../network.ts'
import { Crossing } from './crossing.ts'
import { FastPathDevices } from './fast-path-devices.ts'
import { StackTransKernel } from './maps.ts'

export interface KernelHandles {
  /** The translation maps of nf_tables. */
  readonly maps: StackTransKernel
  /** Addresses, routes, rules and settings. */
  readonly network: HostNetwork
  readonly crossing: Crossing
  readonly fastDevices: FastPathDevices
  /** Undefined where the kernel does not tell sequence numbers. */
  readonly streams: TcpStreams | undefined
  /** Why there can be no eBPF programs on devices; undefined: there can. */
  readonly obstacle: string | undefined
}

export interface KernelOptions extends NetworkOptions {
  /** Remember peers of unconnected UDP sockets. */
  readonly watchUdp: boolean
}

export function openKernel(options: KernelOptions, services: Services): KernelHandles {
  const { rtnl, recorder, accesses } = services
  const network = new HostNetwork(rtnl, services.sysctls('translation'), () => accesses.usable(), options)
  return {
    maps: new StackTransKernel(
      { table: options.ledger.nftTable('dime'), watch: options.watchUdp },
      services.nfTables,
    ),
    network,
    crossing: new Crossing(rtnl, network, {
      netns: undefined,
      warn: (text) => recorder.log('warn', text),
    }),
    fastDevices: new FastPathDevices(rtnl, {
      netns: undefined,
      isOwn: (ip) => network.own.has(ip) || network.identifiers.has(ip),
    }),
    streams: tcpStreams(undefined),
    obstacle: tcxObstacle(),
  }
}
