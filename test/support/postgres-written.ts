/** What postgres-writer.ts writes and prints. */
export interface Written {
  readonly node: string
  /** 0: removed. */
  readonly version: number
  readonly number: number
}

export type WriterLine =
  | { readonly is: 'open' }
  /** A commit begins; there may be no line after it. */
  | { readonly is: 'tries'; readonly written: readonly Written[] }
  | { readonly is: 'acknowledged' | 'unknown'; readonly written: readonly Written[]; readonly ms: number }
  | { readonly is: 'ended'; readonly code: string; readonly message: string }

export const NODES = 60

/** What a version of a node consists of: key id, key, lease and end of the login all tell it. */
export function bytesOf(length: number, writer: string, node: number, version: number): Uint8Array {
  const text = `${writer}.${node}.${version}.`
  return new Uint8Array(Buffer.from(text.repeat(Math.ceil(length / text.length))).subarray(0, length))
}
