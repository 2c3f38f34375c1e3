// A deep first-in first-out queue in block RAM: a word each cycle, three cycles through.
module ram_fifo #(
  parameter WIDTH = 8,
  parameter DEPTH = 16
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

  reg [INDEX-1:0] head;
  reg [INDEX-1:0] tail;
  reg [COUNT-1:0] free;    // words that have not been written, or whose read was taken
  reg [COUNT-1:0] stored;  // words that have been written and not asked for
  wire push = push_vld & push_rdy;
  wire read_rdy;
  wire read = stored != 0 & read_rdy;
  assign push_rdy = free != 0;

  always @(posedge clk)
    if (rst) begin
      head <= 0;
      tail <= 0;
      free <= DEPTH;
      stored <= 0;
    end else begin
      if (push) tail <= tail == LAST ? 0 : tail + 1'b1;
      if (read) head <= head == LAST ? 0 : head + 1'b1;
      free <= free - push + read;
      stored <= stored + push - read;
    end

  stream_ram #(.WIDTH(WIDTH), .WORDS(DEPTH), .ADDRESS_BITS(INDEX)) ram (
    .clk(clk), .rst(rst),
    .write_address(tail), .write_data(push_data), .write_vld(push), .write_rdy(),
    .read_address(head), .read_vld(stored != 0), .read_rdy(read_rdy),
    .word_data(pop_data), .word_vld(pop_vld), .word_rdy(pop_rdy)
  );
endmodule
