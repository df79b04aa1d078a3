/** A transport address: 4 or 16 address bytes, port, and the IPv6 scope (interface index, 0 for global). */
export interface Endpoint {
  readonly address: Uint8Array
  readonly port: number
  readonly scope?: number
  /** The address of ours that it reached, on a multihomed anchor: answers leave from it. Handed on as it came. */
  readonly local?: Uint8Array
}
