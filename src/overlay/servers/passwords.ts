/** Passwords of accounts (NT-10): scrypt (RFC 7914), a few at a time, the same work whether the account exists or not. */
import { randomBytes, scrypt, timingSafeEqual } from 'node:crypto'
import type { Account } from '../store/store.ts'

/** 32 MB and about 80 ms each. */
const COST = { N: 32_768, r: 8, p: 1, maxmem: 64 << 20 }
const HASH = 32
const SALT = 16

export async function hashPassword(password: string): Promise<Pick<Account, 'salt' | 'hash'>> {
  const salt = randomBytes(SALT)
  return { salt, hash: await derive(password, salt) }
}

export async function checkPassword(account: Account | undefined, password: string): Promise<boolean> {
  const hash = await derive(password, account?.salt ?? new Uint8Array(SALT))
  const expected = account?.hash ?? new Uint8Array(HASH)
  const isEqual = expected.length === HASH && timingSafeEqual(hash, expected)
  return isEqual && account !== undefined && !account.disabled
}

function derive(password: string, salt: Uint8Array): Promise<Uint8Array> {
  return new Promise<Uint8Array>((resolve, reject) => {
    scrypt(password.normalize('NFC'), salt, HASH, COST, (error, key) => {
      if (error) reject(error)
      else resolve(new Uint8Array(key))
    })
  })
}
