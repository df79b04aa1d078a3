/** JSON files in the state folder, whose contents are checked when they are read. */
import { readFileSync } from 'node:fs'
import type * as z from 'zod'
import { GodwitError } from '../core/errors.ts'

/** Throws STORE_INVALID for a damaged file; `hint` says how to go on without it. */
export function readStore<T>(path: string, schema: z.ZodType<T>, hint: string): T {
  try {
    return schema.parse(JSON.parse(readFileSync(path, 'utf8')))
  } catch (error) {
    throw new GodwitError('STORE_INVALID', `${path} is damaged: ${(error as Error).message.split('\n')[0]}`, {
      kind: 'usage',
      cause: error,
      hint,
    })
  }
}
