/**
 * The interface between the connection controller and a radio: commands to scan, associate and disassociate, and events.
 * Drivers are supplicant.ts (wpa_supplicant), network-manager.ts and modem-manager.ts; auto.ts finds the right one.
 * Drivers decide nothing. test/suites/radio.ts tests each of them against this.
 */
import type { GodwitError } from '../../core/errors.ts'

/** Services that can control a radio; `auto` selects one. */
export const DRIVERS = ['auto', 'wpa_supplicant', 'networkmanager', 'modemmanager'] as const
export type Driver = (typeof DRIVERS)[number]

/** Default folder of wpa_supplicant's control sockets. */
export const SUPPLICANT_FOLDER = '/run/wpa_supplicant'

/** A place to associate with, as a scan found it. */
export interface AccessPoint {
  /** Unique among the points of this radio: a BSSID, a cell. */
  readonly id: string
  /** SSID or operator. */
  readonly network: string
  readonly dbm: number
}

export type RadioEvent =
  /** Strength of the point it is associated with. */
  | { readonly type: 'signal'; readonly dbm: number }
  /** A scan has ended; all points that it found. */
  | { readonly type: 'points'; readonly points: readonly AccessPoint[] }
  | { readonly type: 'associated'; readonly point: string; readonly network: string }
  /** It is associated with nothing any more. */
  | { readonly type: 'lost'; readonly reason: string }
  | { readonly type: 'failed'; readonly op: 'scan' | 'associate'; readonly reason: string }
  /** The driver cannot work, and why; reported when it begins and when the reason changes. It keeps trying by itself. */
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
  /** Calls `listener` from now on; the current state is reported at once. */
  subscribe(listener: (event: RadioEvent) => void): void
  close(): void
}
