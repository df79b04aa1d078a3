/** What can be broken in a program: small changes at places of its syntax tree, as text edits. */
import { type Node, parse } from 'acorn'

export interface Mutant {
  /** Offsets in the text. */
  readonly from: number
  readonly to: number
  readonly replacement: string
  /** What is broken, for people. */
  readonly what: string
}

/** A node with whatever its kind has. */
type Any = Node & { readonly [key: string]: unknown }

/** Instead of an operator. Of comparisons the boundary, and the opposite. */
const SWAPPED: Readonly<Record<string, readonly string[]>> = {
  '<': ['<=', '>='],
  '<=': ['<', '>'],
  '>': ['>=', '<='],
  '>=': ['>', '<'],
  '===': ['!=='],
  '!==': ['==='],
  '+': ['-'],
  '-': ['+'],
  '*': ['/'],
  '/': ['*'],
  '%': ['*'],
  '&': ['|'],
  '|': ['&'],
  '<<': ['>>'],
  '>>': ['<<'],
  '>>>': ['<<'],
  '&&': ['||'],
  '||': ['&&'],
}

/** Up to this a number is a place or a count, off by one; above, something measured, twice as large. */
const COUNT = 16

/** Calls whose absence only a reader of logs would notice. */
const TOLD = /^(this\.)?#?(\w+\.)*(log|say|report|debug|warn|note)\(/

/** Every mutant of a module, in the order of their places. */
export function mutantsOf(text: string): Mutant[] {
  const found: Mutant[] = []
  const add = (node: Node, replacement: string): void => {
    const was = text.slice(node.start, node.end)
    found.push({ from: node.start, to: node.end, replacement, what: `${brief(was)} → ${brief(replacement)}` })
  }
  const visit = (node: Any): void => {
    if (isText(node, text)) return
    mutate(node, text, add)
    for (const value of Object.values(node)) {
      if (Array.isArray(value)) for (const each of value) if (isNode(each)) visit(each)
      if (isNode(value)) visit(value)
    }
  }
  visit(parse(text, { ecmaVersion: 'latest', sourceType: 'module' }) as unknown as Any)
  return found.sort((a, b) => a.from - b.from || a.to - b.to)
}

function mutate(node: Any, text: string, add: (node: Node, replacement: string) => void): void {
  const source = (part: unknown): string => text.slice((part as Node).start, (part as Node).end)
  switch (node.type) {
    case 'BinaryExpression':
    case 'LogicalExpression': {
      if (joinsText(node)) break
      for (const swapped of SWAPPED[node.operator as string] ?? [])
        add(node, `(${source(node.left)} ${swapped} ${source(node.right)})`)
      break
    }
    case 'IfStatement':
    case 'ConditionalExpression':
    case 'WhileStatement': {
      const test = node.test as Node
      if (node.type !== 'WhileStatement') add(test, 'true')
      add(test, 'false')
      break
    }
    case 'UnaryExpression':
      if (node.operator === '!') add(node, source(node.argument))
      break
    case 'UpdateExpression': {
      const operator = node.operator === '++' ? '--' : '++'
      const argument = source(node.argument)
      add(node, node.prefix ? `${operator}${argument}` : `${argument}${operator}`)
      break
    }
    case 'AssignmentExpression':
      if (node.operator === '+=') add(node, `${source(node.left)} -= ${source(node.right)}`)
      if (node.operator === '-=') add(node, `${source(node.left)} += ${source(node.right)}`)
      break
    case 'Literal':
      if (typeof node.value === 'number')
        add(node, `${node.value <= COUNT ? node.value + 1 : node.value * 2}`)
      if (typeof node.value === 'boolean') add(node, `${!node.value}`)
      break
    case 'ExpressionStatement': {
      const expression = node.expression as Any
      if (expression.type === 'CallExpression' && !isText(expression, text)) add(node, ';')
      break
    }
    case 'ReturnStatement':
      if (node.argument !== null && source(node.argument) !== 'undefined') add(node, 'return undefined;')
      break
  }
}

/** Errors and texts for people: what they say is no behaviour. */
function isText(node: Any, text: string): boolean {
  return (
    node.type === 'TemplateLiteral' ||
    node.type === 'ThrowStatement' ||
    node.type === 'ImportDeclaration' ||
    (node.type === 'CallExpression' && TOLD.test(text.slice(node.start, node.end))) ||
    (node.type === 'NewExpression' && (node.callee as Any).name === 'GodwitError')
  )
}

function joinsText(node: Any): boolean {
  const isString = (part: Any): boolean =>
    part.type === 'TemplateLiteral' || (part.type === 'Literal' && typeof part.value === 'string')
  return node.operator === '+' && (isString(node.left as Any) || isString(node.right as Any))
}

function isNode(value: unknown): value is Any {
  return typeof value === 'object' && value !== null && typeof (value as Any).type === 'string'
}

function brief(text: string): string {
  const line = text.replace(/\s+/g, ' ')
  return line.length > 70 ? `${line.slice(0, 67)}...` : line
}
