/**
 * What the cache server keeps on its disk: for each object a file of ciphertext and one that describes it. The length of the first is how
 * far the upload has come, also after a crash. What this version does not understand is left for the one that made it. Quotas count what was announced, so that nobody's upload ends for want of room
 * that it was promised.
 */
import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync, rmSync, statfsSync, statSync } from 'node:fs'
import { join } from 'node:path'
import * as z from 'zod'
import { makeFolder } from '../../mechanism/files.ts'
import { CacheFiles } from './cache-files.ts'

const entry = z.object({
  id: z.string().regex(/^[0-9a-f]{32}$/),
  from: z.string(),
  account: z.string(),
  /** Of the account that sent it, and of those of its recipients, by name: who takes the name of one that was removed has another. */
  accountId: z.string().optional(),
  owners: z.record(z.string(), z.string()).optional(),
  bytes: z.int().min(1),
  /** SHA-256 of the ciphertext, and wraps by recipient: base64. Who has fetched it is removed. */
  hash: z.string(),
  wraps: z.record(z.string(), z.string()),
  /** Milliseconds since 1970. */
  sent: z.number(),
  expires: z.number(),
  isDone: z.boolean(),
})

export type CacheObject = z.output<typeof entry>

export interface CacheLimits {
  /** Of all objects. */
  readonly bytes: number
  /** Of what an account has sent, and of what waits for a node: bytes and objects. */
  readonly ofAccount: number
  readonly objectsOfAccount: number
  readonly ofRecipient: number
  readonly objectsOfRecipient: number
  /** What stays free on the disk. */
  readonly free: number
}

const GIB = 2 ** 30
/** What waits for a node may be more than an account may send: no account alone keeps others from it. */
export function limitsFor(bytes: number): CacheLimits {
  return {
    ...{ bytes, ofAccount: Math.floor(bytes / 4), objectsOfAccount: 500 },
    ...{ ofRecipient: Math.floor(bytes / 2), objectsOfRecipient: 1000, free: GIB / 2 },
  }
}

/** By account or by node: the objects, and how many bytes they are. What a request costs does not grow with what others keep. */
class Shares {
  readonly #of = new Map<string, { bytes: number; readonly ids: Set<string> }>()

  /** Repeatable. */
  add(key: string, { id, bytes }: CacheObject): void {
    const share = this.#of.get(key) ?? { bytes: 0, ids: new Set<string>() }
    if (share.ids.has(id)) return
    share.ids.add(id)
    share.bytes += bytes
    this.#of.set(key, share)
  }

  remove(key: string, { id, bytes }: CacheObject): void {
    const share = this.#of.get(key)
    if (share?.ids.delete(id) !== true) return
    share.bytes -= bytes
    if (share.ids.size === 0) this.#of.delete(key)
  }

  ids(key: string): readonly string[] {
    return [...(this.#of.get(key)?.ids ?? [])]
  }

  of(key: string): Share {
    const share = this.#of.get(key)
    return { bytes: share?.bytes ?? 0, objects: share?.ids.size ?? 0 }
  }
}

interface Share {
  readonly bytes: number
  readonly objects: number
}

function fits(share: Share, bytes: number, most: Share): boolean {
  return share.objects < most.objects && share.bytes + bytes <= most.bytes
}

/** Whether the account leaves to others as much as it then has itself: however many fill a place, there is some room. */
function leavesAsMuch(own: Share, bytes: number, left: Share): boolean {
  return fits(own, bytes, { bytes: left.bytes - bytes, objects: left.objects - 1 })
}

const MAX_OBJECTS = 20_000
/** An upload that does not go on is removed (ms). */
const UNFINISHED_MS = 24 * 3_600_000
/** What is not understood is removed then (ms): nothing waits for longer. */
const UNKNOWN_MS = 31 * 24 * 3_600_000

export type Refused = 'full' | 'sender-quota' | 'recipient-quota'

export class CacheStore {
  readonly #files: CacheFiles
  readonly #limits: CacheLimits
  readonly #wall: () => number
  readonly #objects = new Map<string, CacheObject>()
  readonly #touched = new Map<string, number>()
  readonly #ofAccount = new Shares()
  readonly #ofRecipient = new Shares()
  /** Of an account in one box. */
  readonly #ofPair = new Shares()
  /** Of all objects. */
  #bytes = 0
  /** Bytes that are still to come, by object. */
  readonly #left = new Map<string, number>()

  constructor(folder: string, limits: CacheLimits, wall: () => number, files = new CacheFiles(folder)) {
    this.#files = files
    this.#limits = limits
    this.#wall = wall
    makeFolder(folder)
    const kept = new Set<string>()
    for (const name of readdirSync(folder)) {
      const id = /^([0-9a-f]{32})\.json$/.exec(name)?.[1]
      if (id !== undefined && this.#load(id)) kept.add(id)
    }
    for (const name of readdirSync(folder)) {
      const id = /^([0-9a-f]{32})\.(?:data|json|json\.\d+\.new)$/.exec(name)?.[1]
      if (id !== undefined && (!kept.has(id) || name.endsWith('.new')))
        rmSync(join(folder, name), { force: true })
    }
    this.expire().catch(() => {})
  }

  /** Whether its files stay; what a later version has added to them, too. Throws when they cannot be read: nobody's files are removed because a disk fails. */
  #load(id: string): boolean {
    const description = this.#files.path(describing(id))
    const data = statSync(this.path(id), { throwIfNoEntry: false })
    const value = jsonOf(readFileSync(description, 'utf8'))
    if (data === undefined || value === undefined) return false
    const { success, data: object } = entry.loose().safeParse(value)
    if (!success) return statSync(description).mtimeMs + UNKNOWN_MS > this.#wall()
    // The disk has lost what its sender was told is there: nobody could open it.
    if (object.id !== id || (object.isDone && data.size !== object.bytes)) return false
    this.#enter(object)
    this.#touched.set(id, data.mtimeMs)
    this.offset(id)
    return true
  }

  get size(): number {
    return this.#objects.size
  }

  get(id: string): CacheObject | undefined {
    return this.#objects.get(id)
  }

  /** The file of ciphertext. */
  path(id: string): string {
    return this.#files.path(contents(id))
  }

  /** How much of it is there. */
  offset(id: string): number {
    const { size } = statSync(this.path(id))
    const object = this.#objects.get(id)
    if (object?.isDone === false) this.#left.set(id, object.bytes - size)
    return size
  }

  /** What waits for a node, the oldest first. */
  inbox(node: Owner): CacheObject[] {
    // Objects of before name no owner.
    const ids = [boxOf(node.name, undefined), boxOf(node.name, node.accountId)].flatMap((box) =>
      this.#ofRecipient.ids(box),
    )
    return ids.flatMap((id) => {
      const object = this.#objects.get(id)
      return object?.isDone === true ? [object] : []
    })
  }

  /** It counts from now on; resolves when it is on the disk. */
  async create(object: Omit<CacheObject, 'id' | 'sent' | 'isDone'>): Promise<CacheObject | Refused> {
    const refused = this.#refuses(object)
    if (refused !== undefined) return refused
    const id = randomBytes(16).toString('hex')
    const made = { ...object, id, sent: this.#wall(), isDone: false }
    this.#enter(made)
    this.#left.set(id, made.bytes)
    this.touch(id)
    try {
      await this.#files.post(async () => {
        await this.#files.make(contents(id))
        await this.#describe(made)
      })
    } catch (error) {
      await this.remove(id)
      throw error
    }
    return made
  }

  /** Its upload goes on. */
  touch(id: string): void {
    this.#touched.set(id, this.#wall())
  }

  /** All is there and is what was announced: it is on the disk, and its recipients see it. */
  async finish(id: string): Promise<void> {
    await this.#files.sync(contents(id))
    await this.#change(id, (object) => ({ ...object, isDone: true, sent: this.#wall() }))
  }

  /** A recipient has it. When all have, it goes. */
  received(id: string, name: string): Promise<void> {
    return this.#change(id, (object) => {
      const { [name]: _, ...wraps } = object.wraps
      return Object.keys(wraps).length === 0 ? undefined : { ...object, wraps }
    })
  }

  /** Nobody sees it from now on; resolves when it is off the disk. */
  remove(id: string): Promise<void> {
    this.#forget(id)
    return this.#files.post(() => this.#erase(id))
  }

  async expire(): Promise<void> {
    const now = this.#wall()
    const isOver = ({ id, expires, isDone }: CacheObject) =>
      expires <= now || (!isDone && (this.#touched.get(id) ?? 0) + UNFINISHED_MS <= now)
    await Promise.all([...this.#objects.values()].filter(isOver).map(({ id }) => this.remove(id)))
  }

  /** Resolves when nothing is being written. */
  settle(): Promise<void> {
    return this.#files.settle()
  }

  #refuses(object: Omit<CacheObject, 'id' | 'sent' | 'isDone'>): Refused | undefined {
    const { bytes } = object
    const limits = this.#limits
    const sender = senderOf(object)
    const own = this.#ofAccount.of(sender)
    if (!fits(own, bytes, { bytes: limits.ofAccount, objects: limits.objectsOfAccount }))
      return 'sender-quota'
    for (const box of boxesOf(object)) {
      const { bytes: waiting, objects } = this.#ofRecipient.of(box)
      const left = { bytes: limits.ofRecipient - waiting, objects: limits.objectsOfRecipient - objects }
      if (!leavesAsMuch(this.#ofPair.of(pairOf(sender, box)), bytes, left)) return 'recipient-quota'
    }
    let promised = 0
    for (const left of this.#left.values()) promised += left
    const { bavail, bsize } = statfsSync(this.#files.folder)
    const left = {
      bytes: Math.min(limits.bytes - this.#bytes, bavail * bsize - promised - limits.free),
      objects: MAX_OBJECTS - this.size,
    }
    return leavesAsMuch(own, bytes, left) ? undefined : 'full'
  }

  /** Of what it is by then, if it is still there; undefined: it goes. */
  #change(id: string, change: (object: CacheObject) => CacheObject | undefined): Promise<void> {
    return this.#files.post(async () => {
      const object = this.#objects.get(id)
      if (object === undefined) return
      const changed = change(object)
      if (changed === undefined) {
        this.#forget(id)
        await this.#erase(id)
        return
      }
      await this.#describe(changed)
      // Removed meanwhile: its files go next.
      if (this.#objects.has(id)) this.#enter(changed)
    })
  }

  #describe(object: CacheObject): Promise<void> {
    return this.#files.replace(describing(object.id), `${JSON.stringify(object)}\n`)
  }

  #erase(id: string): Promise<void> {
    return this.#files.remove(describing(id), contents(id))
  }

  #forget(id: string): void {
    const object = this.#objects.get(id)
    if (object !== undefined) this.#leave(object)
    this.#objects.delete(id)
    this.#touched.delete(id)
    this.#left.delete(id)
  }

  #enter(object: CacheObject): void {
    const { id, bytes, isDone } = object
    const before = this.#objects.get(id)
    if (before === undefined) this.#bytes += bytes
    this.#objects.set(id, object)
    if (isDone) this.#left.delete(id)
    this.#ofAccount.add(senderOf(object), object)
    const boxes = boxesOf(object)
    for (const box of boxes) {
      this.#ofRecipient.add(box, object)
      this.#ofPair.add(pairOf(senderOf(object), box), object)
    }
    for (const box of before === undefined ? [] : boxesOf(before))
      if (!boxes.includes(box)) this.#leaveBox(box, object)
  }

  #leaveBox(box: string, object: CacheObject): void {
    this.#ofRecipient.remove(box, object)
    this.#ofPair.remove(pairOf(senderOf(object), box), object)
  }

  #leave(object: CacheObject): void {
    this.#bytes -= object.bytes
    this.#ofAccount.remove(senderOf(object), object)
    for (const box of boxesOf(object)) this.#leaveBox(box, object)
  }
}

function describing(id: string): string {
  return `${id}.json`
}

function contents(id: string): string {
  return `${id}.data`
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

export type Owner = { readonly name: string; readonly accountId: string }

/** Whether it is this node's, and not that of an account that had its name before. */
export function isFrom({ from, accountId }: CacheObject, node: Owner): boolean {
  return from === node.name && (accountId ?? node.accountId) === node.accountId
}

export function isFor({ wraps, owners }: CacheObject, { name, accountId }: Owner): boolean {
  return Object.hasOwn(wraps, name) && (owners?.[name] ?? accountId) === accountId
}

function senderOf({ account, accountId }: Pick<CacheObject, 'account' | 'accountId'>): string {
  return accountId ?? account
}

function pairOf(sender: string, box: string): string {
  return `${sender}\n${box}`
}

function boxesOf({ wraps, owners }: Pick<CacheObject, 'wraps' | 'owners'>): string[] {
  return Object.keys(wraps).map((name) => boxOf(name, owners?.[name]))
}

function boxOf(name: string, accountId: string | undefined): string {
  return accountId === undefined ? name : `${name} ${accountId}`
}
