/** The outcome of decoding untrusted bytes: never an exception, never undefined. */
export type Decoded<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly reason: string }

export function decoded<T>(value: T): Decoded<T> {
  return { ok: true, value }
}

export function malformed(reason: string): { readonly ok: false; readonly reason: string } {
  return { ok: false, reason }
}
