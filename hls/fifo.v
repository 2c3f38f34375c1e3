// A first-in first-out queue of registers; the next word shows at the output without asking.
//
//   DEPTH 1 passes a word every other cycle, deeper ones a word each cycle.
module fifo #(
  parameter WIDTH = 1,
  parameter DEPTH = 2
) (
  input wire clk,
  input wire rst,
  input wire [WIDTH-1:0] push_data,
  input wire push_vld,
  output wire push_rdy,
  output wire [WIDTH-1:0] pop_data,
  output wire pop_vld,
  input wire pop_rdy
);
  localparam INDEX = DEPTH > 1 ? $clog2(DEPTH) : 1;
  localparam [INDEX-1:0] LAST = DEPTH - 1;
  localparam COUNT = $clog2(DEPTH + 1);

  reg [WIDTH-1:0] words [0:DEPTH-1];
  reg [INDEX-1:0] head;
  reg [INDEX-1:0] tail;
  reg [COUNT-1:0] count;

  wire push = push_vld & push_rdy;
  wire pop = pop_vld & pop_rdy;
  assign push_rdy = count != DEPTH;
  assign pop_vld = count != 0;
  assign pop_data = words[head];

  always @(posedge clk) begin
    if (push) words[tail] <= push_data;
    if (rst) begin
      head <= 0;
      tail <= 0;
      count <= 0;
    end else begin
      if (push) tail <= tail == LAST ? 0 : tail + 1'b1;
      if (pop) head <= head == LAST ? 0 : head + 1'b1;
      count <= count + push - pop;
    end
  end
endmodule
