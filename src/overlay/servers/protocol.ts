/** Messages between the main thread and the workers of the servers. */
import type { CoordinatorInit } from '../machine/coordinator.ts'
import type { SoftInput, SoftOutput } from '../machine/fellows.ts'
import type { NotifierOutput } from '../machine/notifier.ts'
import type { FoundZone } from '../machine/zones.ts'
import type { StoreInit } from '../store/store.ts'
import type { CertifiedServer, Measured, RelayLoad, RelaySide, SideOrder } from '../wire/message.ts'

export interface CoordinatorSetup {
  readonly port: number
  readonly store: StoreInit
  readonly init: CoordinatorInit
}

export type CoordinatorCommand =
  | {
      readonly type: 'relay-ack'
      readonly id: number
      readonly sides: readonly [RelaySide, RelaySide] | undefined
    }
  | RelayLoadEvent
  /** The node logged in again, or was removed. */
  | { readonly type: 'forget'; readonly name: string }
  /** What the DNS said of the zone. */
  | { readonly type: 'zone'; readonly zone: string; readonly found: FoundZone | undefined }
  | { readonly type: 'notification-prepare-ack'; readonly id: number; readonly isReady: boolean }
  /** The node has connected to the notification server, or no longer is. */
  | {
      readonly type: 'notified'
      readonly name: string
      readonly token: Uint8Array
      readonly isConnected: boolean
    }
  | { readonly type: 'push-gone'; readonly name: string; readonly address: string }
  /** Of the bus between the coordinators of the zone. */
  | SoftInput
  | { readonly type: 'report' }
  /** The database may be another coordinator's now; every turn looks. */
  | { readonly type: 'look' }

export type CoordinatorEvent =
  | RelayOrderEvent
  | NotifierOutput
  | SoftOutput
  /** The DNS is to be asked for the coordinator of this zone. */
  | { readonly type: 'find-zone'; readonly zone: string }
  | { readonly type: 'cache-server'; readonly at: CertifiedServer }
  | { readonly type: 'report'; readonly counts: Readonly<Record<string, number>> }
  | {
      readonly type: 'step'
      readonly at: number
      readonly from: string
      readonly to: string
      readonly what: string
    }
  | { readonly type: 'log'; readonly level: 'error' | 'warn' | 'info'; readonly message: string }

export interface RelayOrderEvent {
  readonly type: 'relay-order'
  readonly id: number
  /** Hexadecimal. */
  readonly pair: string
  readonly another: boolean
  readonly account: string
  readonly sides: readonly [SideOrder, SideOrder]
  readonly binds: boolean
}

/** Once a second. */
export interface RelayLoadEvent {
  readonly type: 'relay-load'
  readonly load: RelayLoad
  readonly measured: readonly Measured[]
}

export interface RelaySetup {
  readonly ports: readonly number[]
  readonly addresses: readonly Uint8Array[]
  readonly maxChannels?: number
  /** Bytes a second that each side of a channel may send; 0: no limit. */
  readonly rate: number
  /** What the relay's link carries (kbit/s); 0: not known. */
  readonly capacity: number
  /** Whether channels are put into the kernel where it can have them. */
  readonly kernel: boolean
}

export type RelayCommand =
  | RelayOrderEvent
  | { readonly type: 'report' }
  /** Routes, addresses or devices of this machine have changed. */
  | { readonly type: 'routes' }

export type RelayEvent =
  | RelayLoadEvent
  | {
      readonly type: 'relay-ack'
      readonly id: number
      readonly sides: readonly [RelaySide, RelaySide] | undefined
    }
  | { readonly type: 'log'; readonly level: 'error' | 'warn' | 'info'; readonly message: string }
  | { readonly type: 'report'; readonly counts: Readonly<Record<string, number>> }
