/**
 * What the connection controller sees of a radio: it can be told to scan, associate and let go, and it says what it
 * hears. Drivers are supplicant.ts (wpa_supplicant) and the lab's simulated radios; neither decides anything.
 */

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
