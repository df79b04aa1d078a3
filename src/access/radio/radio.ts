/**
 * What the connection controller sees of a radio: it can be told to scan, associate and let go, and it says what it
 * hears. Drivers are supplicant.ts (wpa_supplicant), network-manager.ts and modem-manager.ts; auto.ts finds the right one.
 * None decides anything. test/suites/radio.ts holds each of them to this.
 */
import type { GodwitError } from '../../core/errors.ts'

/** What a radio can be driven through; `auto` finds out. */
export const DRIVERS = ['auto', 'wpa_supplicant', 'networkmanager', 'modemmanager'] as const
export type Driver = (typeof DRIVERS)[number]

/** Where wpa_supplicant keeps its control sockets when nobody says otherwise. */
export const SUPPLICANT_FOLDER = '/run/wpa_supplicant'

/** A place to associate with, as a scan found it. */
export interface AccessPoint {
  /** Unique among what this radio hears: a BSSID, a cell. */
  readonly id: string
  /** SSID or operator. */
  readonly network: string
  readonly dbm: number
}

export type RadioEvent =
  /** Strength of the point it is associated with. */
  | { readonly type: 'signal'; readonly dbm: number }
  /** A scan has ended; all that was heard. */
  | { readonly type: 'points'; readonly points: readonly AccessPoint[] }
  | { readonly type: 'associated'; readonly point: string; readonly network: string }
  /** It is associated with nothing any more. */
  | { readonly type: 'lost'; readonly reason: string }
  | { readonly type: 'failed'; readonly op: 'scan' | 'associate'; readonly reason: string }
  /** The driver cannot work, and why; told when it begins and when the reason is another. It tries on by itself. */
  | { readonly type: 'trouble'; readonly error: GodwitError }

export interface Radio {
  /** The network interface it drives: the access's name. */
  readonly name: string
  /** Results come as `points`, or `failed`. */
  scan(): void
  /** Leaves what it is associated with, if anything. `associated` or `failed` follows. */
  associate(point: AccessPoint): void
  /** Leaves what it is associated with and stays so. */
  release(): void
  /** Calls `listener` from now on; what holds already is told at once. */
  subscribe(listener: (event: RadioEvent) => void): void
  close(): void
}
