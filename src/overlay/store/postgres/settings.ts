/** Where the database is: part of the settings of the overlay's servers (`store`). The password is in a file of its own. */
import { readFileSync } from 'node:fs'
import * as z from 'zod'
import { GodwitError, usageError } from '../../../core/errors.ts'
import { refuseExposed } from '../../../mechanism/files.ts'

export const postgresSettings = z.strictObject({
  /** postgres://USER@HOST[:PORT][,HOST[:PORT]…]/DATABASE; a HOST that begins with / is the folder of a socket (percent-encoded). */
  url: z.string().refine((text) => parseStoreUrl(text) !== undefined),
  password_file: z.string().startsWith('/').optional(),
  /** Certificates of authorities (PEM); absent: those of Node.js. */
  ca_file: z.string().startsWith('/').optional(),
  /** `verify`: TLS, and the server's certificate is checked. `off`: none, for the server on this machine or in a network of its own. */
  tls: z.enum(['verify', 'off']).default('verify'),
  /** What a commit waits for, beside the disk of the primary: the disk of the standby, or that the standby shows it. */
  commit: z.enum(['on', 'remote_apply']).default('on'),
})

export type PostgresSettings = z.output<typeof postgresSettings>

export interface StoreHost {
  /** A name or address; a folder of a socket begins with /. */
  readonly host: string
  readonly port: number
}

export interface StoreUrl {
  readonly user: string
  readonly database: string
  /** In the order in which they are tried. */
  readonly hosts: readonly StoreHost[]
}

const URL_FORM = /^postgres(?:ql)?:\/\/([^:@/?]+)@([^@/?]+)\/([^/?]+)$/
const HOST_FORM = /^(\[[0-9a-fA-F:.]+\]|[^:[\]]+)(?::([0-9]{1,5}))?$/

/** Undefined: not of the form, or with a password in it. */
export function parseStoreUrl(text: string): StoreUrl | undefined {
  const [, user, list, database] = URL_FORM.exec(text) ?? []
  if (user === undefined || list === undefined || database === undefined) return undefined
  const hosts = list.split(',').map((each) => {
    const [, host, port = '5432'] = HOST_FORM.exec(each) ?? []
    return { host: host && decoded(host.replace(/^\[(.*)\]$/, '$1')), port: Number(port) }
  })
  const [name, of] = [decoded(user), decoded(database)]
  if (name === undefined || of === undefined) return undefined
  if (hosts.some(({ host, port }) => !host || port < 1 || port > 65_535)) return undefined
  return { user: name, database: of, hosts: hosts as StoreHost[] }
}

function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text)
  } catch {
    return undefined
  }
}

/** Throws USAGE for a URL that is none, or has a password. */
export function checkStoreUrl(text: string): void {
  if (parseStoreUrl(text) !== undefined) return
  const hint = /^postgres(ql)?:\/\/[^/@]*:[^/@]*@/.test(text)
    ? 'put the password into a file that only its owner can read, and name it with --password-file'
    : 'e.g. postgres://godwit@db1.example.org,db2.example.org/godwit'
  throw usageError('this is not the address of a database without a password in it', { hint })
}

/** As the file has it now. Throws SECRET_EXPOSED, FILE_MISSING. */
export function passwordOf({ password_file }: PostgresSettings): string | undefined {
  if (password_file === undefined) return undefined
  const text = textOf(password_file)
  refuseExposed(password_file)
  return text.replace(/\r?\n$/, '')
}

export function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    throw new GodwitError('FILE_MISSING', `${file}: ${(error as Error).message}`, { kind: 'usage' })
  }
}
