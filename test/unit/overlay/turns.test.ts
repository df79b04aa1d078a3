/** Who goes first where little can be done at a time. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Turns } from '../../../src/overlay/servers/turns.ts'

function work(turns: Turns) {
  const done: string[] = []
  const ends: (() => void)[] = []
  const ask = (name: string, rank: number) =>
    turns
      .run(rank, () => {
        done.push(name)
        return new Promise<string>((resolve) => ends.push(() => resolve(name)))
      })
      .then((result) => result ?? done.push(`not ${name}`))
  const next = async () => {
    ends.shift()?.()
    await new Promise(setImmediate)
  }
  return { done, ask, next }
}

test('who has tried least goes first; where too many wait, who has tried most gives way', async () => {
  const turns = new Turns(1, 3)
  const { done, ask, next } = work(turns)
  for (const [name, rank] of [
    ['first', 5],
    ['guesser', 9],
    ['other', 9],
    ['fresh', 0],
    ['known', -1],
  ] as const)
    void ask(name, rank)
  await new Promise(setImmediate)
  assert.deepEqual(done, ['first', 'not other'])
  for (let i = 0; i < 4; i++) await next()
  assert.deepEqual(done.slice(2), ['known', 'fresh', 'guesser'])
  assert.equal(turns.waiting, 0)
  void ask('last', 9)
  await new Promise(setImmediate)
  assert.equal(done.at(-1), 'last')
})

test('work that fails ends its turn', async () => {
  const turns = new Turns(1, 1)
  await assert.rejects(turns.run(0, () => Promise.reject(new Error('no'))))
  assert.equal(await turns.run(0, () => Promise.resolve('yes')), 'yes')
})
