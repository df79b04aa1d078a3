/** The assemblers for eBPF, against instructions as RFC 9669 encodes them, and for classic BPF. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ClassicBpf } from '../../../src/linux/classic-bpf.ts'
import { Ebpf, FRAME } from '../../../src/linux/ebpf.ts'
import { crossingProgram } from '../../../src/translation/kernel/crossing-program.ts'
import { dump } from '../codec-suite.ts'

test('instructions are encoded as RFC 9669 says', () => {
  const code = new Ebpf()
    .move(6, 1)
    .load(4, 0, 6, 16)
    .jumpIf('eq', 0, 8, 'end')
    .storeValue(2, FRAME, -4, 0x40)
    .address(2, FRAME, -64)
    .swap(0, 16)
    .map(1, 7)
    .call(1)
    .label('end')
    .set(0, -1)
    .exit()
    .finish()
  assert.deepEqual(
    code,
    dump(`
      bf 16 00 00 00 00 00 00    # r6 = r1
      61 60 10 00 00 00 00 00    # r0 = *(u32 *)(r6 + 16)
      15 00 07 00 08 00 00 00    # if r0 == 8 goto +7
      6a 0a fc ff 40 00 00 00    # *(u16 *)(r10 - 4) = 64
      bf a2 00 00 00 00 00 00    # r2 = r10
      07 02 00 00 c0 ff ff ff    # r2 += -64
      dc 00 00 00 10 00 00 00    # r0 = be16 r0
      18 11 00 00 07 00 00 00    # r1 = map 7
      00 00 00 00 00 00 00 00
      85 00 00 00 01 00 00 00    # call 1
      b7 00 00 00 ff ff ff ff    # r0 = -1
      95 00 00 00 00 00 00 00    # exit
    `),
  )
})

test('a jump to nowhere is an error of whoever wrote it', () => {
  assert.throws(() => new Ebpf().jumpIf('eq', 0, 0, 'nowhere').finish(), /nowhere/)
})

test('ADR 0021: programs of some hundred instructions, with and without Ethernet', () => {
  for (const ethernet of [true, false]) {
    const code = crossingProgram({ ethernet, from4: 3, from6: 4, same6: 6, into: 5 })
    assert.ok(code.length % 8 === 0 && code.length / 8 < 300, `${code.length / 8}`)
  }
})

test('the program that marks sockets: mark, store, allow', () => {
  const code = new Ebpf().set(2, 0x80000005).store(4, 1, 16, 2).set(0, 1).exit().finish()
  assert.deepEqual(
    code,
    dump(`
      b7 02 00 00 05 00 00 80    # r2 = mark
      63 21 10 00 00 00 00 00    # *(u32 *)(r1 + 16) = r2
      b7 00 00 00 01 00 00 00    # r0 = 1
      95 00 00 00 00 00 00 00    # exit
    `),
  )
})

test('classic BPF: forward jumps within reach only', () => {
  assert.throws(() => new ClassicBpf().jumpIf('eq', 1, 'nowhere').finish(), /nowhere/)
  assert.throws(() => new ClassicBpf().label('back').jump('back').finish(), /away/)
  const far = new ClassicBpf().jumpIf('eq', 1, 'far')
  for (let i = 0; i < 256; i++) far.return(0)
  assert.throws(() => far.label('far').return(1).finish(), /256 instructions away/)
})
