/**
 * Services that the daemon owns and shares among all mechanisms, one of each. Nothing else opens netlink sockets, reads
 * accesses, changes settings or looks up owners of sockets. All are used on the main thread; the daemon closes them when
 * every mechanism has stopped.
 */
import type { AccessMonitor } from '../access/index.ts'
import type { AccessResolver } from '../access/names/index.ts'
import type { Random } from '../core/clock.ts'
import type { Recorder } from '../core/mechanism.ts'
import type { Cgroups } from '../linux/cgroup.ts'
import type { WatchedClock } from '../linux/clock.ts'
import type { KernelGuard } from '../linux/guard.ts'
import type { Ledger } from '../linux/ledger.ts'
import type { NfSocket } from '../linux/nf-socket.ts'
import type { Nftables } from '../linux/nft.ts'
import type { FlowOwners } from '../linux/owners.ts'
import type { Accept } from '../linux/passage/chains.ts'
import type { Passage } from '../linux/passage/passage.ts'
import type { Rtnl } from '../linux/rtnetlink/types.ts'
import type { SocketTable } from '../linux/sockdiag.ts'
import type { Sysctls } from '../linux/sysctl.ts'
import type { EndpointCache } from '../tunnel/engine/endpoints.ts'
import type { SeenStore } from '../tunnel/engine/greetings.ts'

export interface Services {
  /** Numbers and names of this instance in the kernel. */
  readonly ledger: Ledger
  readonly clock: WatchedClock
  readonly random: Random
  readonly recorder: Recorder
  readonly rtnl: Rtnl
  /** Restores what another program removes. */
  readonly guard: KernelGuard
  /** The access networks as `[access.NAME]` allows them. */
  readonly accesses: AccessMonitor
  /** sock_diag. */
  readonly sockets: SocketTable
  /** Which program a socket belongs to. */
  readonly owners: FlowOwners
  /** Undefined where cgroup version 2 is not mounted. */
  readonly cgroups: Cgroups | undefined
  /** Whole tables in nft's language. */
  readonly nftables: Nftables
  /**
   * Inserts accept rules where other programs' filters would drop these packets; `change` false: only reports which
   * chains drop.
   */
  passage(accepts: readonly Accept[], change: boolean): Passage
  /** Elements by the thousand; see `NfBatch`. */
  readonly nfTables: Pick<NfSocket, 'commit' | 'dump' | 'hasTable'>
  /**
   * Settings changed for `owner`. Its `restore` resets those that no other owner has changed too; the original values
   * survive a crash.
   */
  sysctls(owner: string): Sysctls
  /** Addresses of endpoints that are names, over restarts. */
  readonly endpoints: EndpointCache
  /** Resolves names over an access, past every tunnel. */
  readonly names: AccessResolver
  /** The newest timestamp of a handshake, over restarts. */
  readonly timestamp: { get(): number | undefined; set(floor: number): void }
  /** Where peers were last, over restarts. */
  readonly seen: SeenStore
  readonly files: Files
}

/** The files of this instance. */
export interface Files {
  /** The state's folder. */
  readonly folder: string
  /** A file in it. */
  file(name: string): string
  /** A path of the configuration, relative to the configuration's folder. */
  resolve(path: string): string
  /** Where the private key of this machine is. */
  keyFile(): string
  /** That key; made when there is none. */
  privateKey(): Uint8Array
}
